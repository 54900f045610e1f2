"""Persistent worker processes joined by gloo, for tests that compare n processes with one.

Workers meet through a file in a temporary folder (no port), use one thread each, live until the test session
ends, and are shared by all tests that ask for the same number of them. A test's function is imported by the
workers, so it stands at the top level of its module; its arguments and results travel by pickle.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import pickle
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT = 120.0
"""Seconds a call may take before its workers are ended and an error raised."""
GRACE = 5.0
"""Seconds the other workers have to answer once one has failed (they may wait for it in a collective)."""

_pools: dict[int, _Pool] = {}


class ProcessError(RuntimeError):
    """A worker died, hung, or raised something that cannot travel."""


def run_on_processes(function: Callable[..., Any], world_size: int, *args: Any, **kwargs: Any) -> list[Any]:
    """Call `function(*args, **kwargs)` on each of `world_size` processes; results in process order.

    The function asks `counterpoint.distributed.process_index()` which process it is on. An exception is
    raised again here, as the type it had, with the worker's traceback as a note.

    Raises:
        ProcessError: a worker died, or did not answer within `TIMEOUT` seconds.
    """
    pool = _pools.get(world_size)
    if pool is None:
        pool = _pools[world_size] = _Pool(world_size)
    try:
        return pool.call(function, args, kwargs)
    finally:
        if not pool.usable:
            _pools.pop(world_size).close()


def close_all() -> None:
    """End every worker."""
    while _pools:
        _pools.popitem()[1].close()


atexit.register(close_all)


class _Pool:
    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = Path(tempfile.mkdtemp(prefix="counterpoint-processes-"))
        self.usable = True
        self.workers = []
        self.pipes: list[Connection] = []
        for index in range(world_size):
            here, there = context.Pipe()
            arguments = (there, str(self.folder / "rendezvous"), index, world_size)
            worker = context.Process(target=_serve, args=arguments, daemon=True)
            worker.start()
            there.close()
            self.workers.append(worker)
            self.pipes.append(here)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> list[Any]:
        name = (function.__module__, function.__qualname__)
        task = pickle.dumps((list(sys.path), name, args, kwargs))
        self.usable = False  # until every worker has answered
        for pipe in self.pipes:
            pipe.send_bytes(task)
        answers = self._answers()
        self.usable = all(answer is not None for answer in answers)
        for index, answer in enumerate(answers):
            if answer is not None and not answer[0]:
                error = answer[1]
                error.add_note(f"raised on process {index} of {len(answers)}:\n{answer[2]}")
                raise error
        if not self.usable:
            silent = [index for index, answer in enumerate(answers) if answer is None]
            raise ProcessError(f"{'.'.join(name)}: no answer from processes {silent} within {TIMEOUT:.0f} s")
        return [answer[1] for answer in answers if answer is not None]

    def _answers(self) -> list[Any]:
        """(True, result) or (False, error, traceback) of each worker; None where none came in time."""
        answers: list[Any] = [None] * len(self.pipes)
        waiting = dict(zip(self.pipes, range(len(self.pipes)), strict=True))
        deadline = time.monotonic() + TIMEOUT
        while waiting and (left := deadline - time.monotonic()) > 0:
            for ready in wait(list(waiting), timeout=left):
                assert isinstance(ready, Connection)
                index = waiting.pop(ready)
                try:
                    answers[index] = pickle.loads(ready.recv_bytes())
                except EOFError:
                    died = ProcessError(f"process {index} died (exit code {self.workers[index].exitcode})")
                    answers[index] = (False, died, "")
                if not answers[index][0]:
                    deadline = min(deadline, time.monotonic() + GRACE)
        return answers

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for worker in self.workers:
            worker.kill()
            worker.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def _serve(pipe: Connection, rendezvous: str, index: int, world_size: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=index,
        world_size=world_size,
        timeout=timedelta(seconds=TIMEOUT),
    )
    while True:
        try:
            task = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(task))


def _answer(task: bytes) -> bytes:
    try:
        path, (module, qualname), args, kwargs = pickle.loads(task)
        sys.path[:] = path
        function = importlib.import_module(module)
        for part in qualname.split("."):
            function = getattr(function, part)
        return pickle.dumps((True, function(*args, **kwargs)))
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = ProcessError(f"{type(error).__name__}: {error}")
        error.__traceback__ = None
        return pickle.dumps((False, error, text))
