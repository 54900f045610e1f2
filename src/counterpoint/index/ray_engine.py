"""The same embedding in workers of Ray Data: on this machine, or on all of a cluster.

What travels: numbers of rows to the workers, and columns and vectors back to this process, the table's one writer.
A source that has a path is opened by each worker; rows that are only in memory are sent to each machine once.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from counterpoint.data import Rows, list_builtins, open_rows
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model, open_model, weights_checksum
from counterpoint.index.parts import Part, Request, embedded_parts
from counterpoint.system import System

__all__ = ["Assignment", "collected", "embedded_by_ray"]

_ROWS_PER_TASK = 2048  # fewer would leave groups of rows of one shape half empty
_TASKS_PER_WORKER = 4  # at least, so that none waits long for the last one
_MOST_TASKS = 2000  # each costs Ray milliseconds and kilobytes; longer ones hand over what they have as they go
_BYTES_PER_BLOCK = 4 * 2**20  # what is on the way is lost in a kill
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no reports over the network
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # it prints what it will cope with; failures arrive as exceptions
}
_RESTARTS = 3  # of a worker; left alone, Ray starts one for ever that a row kills
_SPACES = b"counterpoint spaces"
_POSITION = "position"


class Assignment(NamedTuple):
    """What a worker needs to know.

    Attributes:
        run: run directory, absolute.
        checksum: of its weights.
        source: what `open_rows` takes, with absolute paths; None for rows that have to be sent.
        columns: as of `embed`.
        request: how rows are embedded; its `workers` are those of Ray.
        threads: of torch, in each worker. Sums of floats may depend on it, so all use as many as the local
            engine would here.
    """

    run: str
    checksum: str
    source: str | None
    columns: Mapping[str, str] | None
    request: Request
    threads: int

    @classmethod
    def of(cls, opened: Model, source: Any, columns: Mapping[str, str] | None, request: Request) -> Assignment:
        """Raises ValueError: the model has no run directory that a worker could load."""
        if opened.path is None:
            raise ValueError(
                f"engine='ray' loads the model in every worker: pass its run directory, not a "
                f"{type(opened.system).__name__} that is in memory"
            )
        checksum = weights_checksum(opened.system)
        return cls(str(opened.path), checksum, _address(source), columns, request, torch.get_num_threads())


def _address(source: Any) -> str | None:
    """The source as a process in another folder names it; None when it is no path."""
    if not isinstance(source, str | Path):
        return None
    text = str(source)
    if text.startswith("hub:") or (isinstance(source, str) and text.partition(":")[0] in list_builtins()):
        return text
    return str(Path(text).absolute())


def embedded_by_ray(
    assignment: Assignment, rows: Rows, places: np.ndarray | None, skipped: list[Skipped]
) -> Iterator[Part]:
    """Parts in the order in which workers finish them, each row once.

    Args:
        assignment: what workers need to know.
        rows: the opened source.
        places: (N,) int64, numbers of the rows that are embedded; None for all.
        skipped: gets the rows that gave no vector.

    Raises:
        ImportError: Ray is not installed.
        ValueError: what `embed_rows` raises in a worker, or a worker found other rows or weights.
        ChildProcessError: a worker failed in another way, or died more than three times.
    """
    left = rows if places is None else rows.select(places)
    if len(left) == 0:
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError("engine='ray' needs Ray: pip install 'counterpoint[ray]'") from error
    with _cluster(ray):
        sent = ray.put(rows) if assignment.source is None else None
        chosen = None if places is None else ray.put(places)
        yield from collected(_messages(ray, assignment, len(left), sent, chosen), left, skipped)


@contextmanager
def _cluster(ray: ModuleType) -> Iterator[None]:
    """The cluster that is in use, or that RAY_ADDRESS names, or one on this machine for the time of the call."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"  # without an address Ray joins any cluster that it finds
    local = {"include_dashboard": False} if address == "local" else {}
    with _environment(_SETTINGS), warnings.catch_warnings():
        # It starts its processes by a fork that runs another program at once; nothing is being written meanwhile.
        warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Variables that have no value get one for a while."""
    added = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _messages(ray: ModuleType, assignment: Assignment, count: int, rows: Any, places: Any) -> Iterator[pa.Table]:
    """Run the workers over `count` rows; what they say, as it comes."""
    workers, resources = _crew(ray.nodes(), assignment)
    tasks = min(max(-(-count // _ROWS_PER_TASK), _TASKS_PER_WORKER * workers), _MOST_TASKS, count)
    bounds = [count * number // tasks for number in range(tasks + 1)]
    spans = [{"start": start, "stop": stop} for start, stop in pairwise(bounds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the limits of restarts have no other name yet
        # Items, as `ray.data.range` would make them in tasks that wait for a processor which no worker gives back.
        dataset = ray.data.from_items(spans, override_num_blocks=tasks).map_batches(
            _Worker,
            fn_constructor_args=(assignment, rows, places, "cuda" if "num_gpus" in resources else "cpu"),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(workers, tasks)),
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
            **resources,
        )
    dataset.context.target_max_block_size = _BYTES_PER_BLOCK
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except ray.exceptions.RayError as error:
        words = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ChildProcessError(f"Ray lost a worker ({words}): call embed again to go on") from error


def _crew(nodes: Iterable[Mapping[str, Any]], assignment: Assignment) -> tuple[int, dict[str, float]]:
    """Number of workers, and what Ray sets aside for each: an accelerator where there are any, else processors."""
    found = [node["Resources"] for node in nodes if node["Alive"]]
    cards = int(sum(node.get("GPU", 0) for node in found))
    if cards:
        return assignment.request.workers or cards, {"num_gpus": 1, "num_cpus": 1}
    processors = max(1, min(assignment.threads, max(int(node.get("CPU", 0)) for node in found)))
    room = sum(int(node.get("CPU", 0)) // processors for node in found)
    return assignment.request.workers or max(1, room), {"num_cpus": processors}


def collected(messages: Iterable[pa.Table], rows: Rows, skipped: list[Skipped]) -> Iterator[Part]:
    """The parts in the messages of workers. Nothing counts twice, nothing may be lost.

    Ray computes again what a dead worker had in hand, so a message may come twice.

    Raises:
        ValueError: a worker says so, or has other rows than `rows`.
        ChildProcessError: a worker failed, or rows never came back.
    """
    arrived = np.zeros(len(rows), dtype=bool)
    for message in messages:
        for content, word in zip(message["rows"].to_pylist(), message["word"].to_pylist(), strict=True):
            told = json.loads(word) if word else {}
            if "error" in told:
                raise _failure(told)
            part = None if content is None else _unpacked(content)
            positions = np.array(told["positions"]) if part is None else part.positions
            fresh = ~arrived[positions]
            arrived[positions] = True
            if part is None:
                skipped += [Skipped(*row) for row, new in zip(told["skipped"], fresh, strict=True) if new]
                continue
            _check_ids(part, rows)
            if fresh.any():
                yield Part(part.table.filter(pa.array(fresh)), part.spaces, positions[fresh])
    if not arrived.all():
        raise ChildProcessError(
            f"{int((~arrived).sum())} of {len(rows)} rows came back from no worker: call embed again to go on"
        )


def _failure(told: Mapping[str, Any]) -> Exception:
    """The error that a worker met."""
    error: Exception = ValueError(told["error"])
    if not told["expected"]:
        error = ChildProcessError(f"a worker of Ray failed: {told['error']}; what was written before stays")
    error.add_note(told["trace"])
    return error


def _check_ids(part: Part, rows: Rows) -> None:
    for position, identity in zip(part.positions.tolist(), part.table["id"].to_pylist(), strict=True):
        if rows.row_id(position) != identity:
            raise ValueError(
                f"{rows.name} is another source in a worker: it has the row {identity!r} where there is "
                f"{rows.row_id(position)!r} here; give all machines the same files, and do not change them meanwhile"
            )


def _packed(part: Part) -> bytes:
    """As Arrow's stream format: Ray would unite the columns of parts with different spaces."""
    table = part.table.append_column(_POSITION, pa.array(part.positions))
    table = table.replace_schema_metadata({_SPACES: json.dumps(part.spaces).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(content: bytes) -> Part:
    table = pa.ipc.open_stream(content).read_all()
    spaces = json.loads(table.schema.metadata[_SPACES])
    positions = table[_POSITION].to_numpy()
    return Part(table.drop_columns([_POSITION]).replace_schema_metadata(None), spaces, positions)


def _message(content: bytes | None, **word: Any) -> pa.Table:
    """One row, whatever is in it: `rows`, a packed part, or `word`, JSON."""
    return pa.table({"rows": pa.array([content], pa.binary()), "word": [json.dumps(word)]})


class _Worker:
    """Embeds rows. An error is sent back as a message: Ray would retry it, and wrap it in pages of its own."""

    def __init__(self, assignment: Assignment, rows: Any, places: Any, device: str) -> None:
        self._assignment, self._rows, self._places, self._device = assignment, rows, places, device
        self._loaded: tuple[System, Rows] | None = None

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[pa.Table]:
        """Messages about the rows at the positions from `start` to before `stop`, (1,) int64 both."""
        positions = np.arange(batch["start"][0], batch["stop"][0])
        try:
            system, rows = self._load()
            skipped: list[Skipped] = []
            done = np.zeros(len(positions), dtype=bool)
            request = self._assignment.request._replace(workers=0)
            for part in embedded_parts(system, rows.select(positions), request, skipped):
                done[part.positions] = True
                yield _message(_packed(part._replace(positions=positions[part.positions])))
            if skipped:
                reasons, lost = dict(skipped), positions[~done].tolist()
                words = [(rows.row_id(position), reasons[rows.row_id(position)]) for position in lost]
                yield _message(None, skipped=words, positions=lost)
        except Exception as error:  # noqa: BLE001 - raised again by `collected`
            text, expected = str(error), isinstance(error, ValueError)
            text = text if expected else f"{type(error).__name__}: {text}"
            yield _message(None, error=text, expected=expected, trace=traceback.format_exc())

    def _load(self) -> tuple[System, Rows]:
        """The system and the rows that are left, once in the life of a worker."""
        if self._loaded is None:
            import ray

            given = self._assignment
            torch.set_num_threads(given.threads)
            system = open_model(given.run, device=self._device).system
            if weights_checksum(system) != given.checksum:
                raise ValueError(f"{given.run} holds other weights on {platform.node()} than where embed was called")
            rows = ray.get(self._rows) if given.source is None else open_rows(given.source, columns=given.columns)
            self._loaded = system, rows if self._places is None else rows.select(ray.get(self._places))
        return self._loaded
