"""What the processes agree on: the outcome of a step, and whether a run may go on with another number of them.

A run on n processes equals one on m, because everything but the random numbers of `encode` (dropout, masks) follows
from the global batch. Those are drawn by each process for its own rows, so a run that draws them belongs to the number
of processes it began with; elsewhere it is refused rather than continued as another run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from counterpoint.distributed import process_count, reduce_sum
from counterpoint.system import System
from counterpoint.training.checkpoint import Checkpoint
from counterpoint.training.settings import TrainingSettings

__all__ = ["OutOfMemoryError", "Outcome", "agree", "counted", "refuse_draws", "refuse_resuming", "together"]


class OutOfMemoryError(Exception):
    """One process at least ran out of memory; all of them try again with smaller pieces."""


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


@contextlib.contextmanager
def together(device: torch.device, *, shared: bool, micro_batch: int | None) -> Iterator[None]:
    """Work without collectives inside; if memory runs out on one process, all of them hear of it.

    Any other error leaves at once: the launcher ends the processes that are left waiting. So does this one where
    weights are shared out, since the others are then waiting for its share of a module.

    Args:
        device: that the processes talk through.
        shared: whether weights are shared out.
        micro_batch: for the error text.

    Raises:
        OutOfMemoryError: on every process.
        RuntimeError: out of memory with shared weights.
    """
    failure: BaseException | None = None
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        failure = error
    if shared:
        if failure is not None:
            raise RuntimeError(
                f"out of memory with shard=true and micro_batch={micro_batch}: the other processes wait inside a "
                "module, so this step cannot be tried again with less. Resume with a smaller micro_batch"
            ) from failure
        return
    failed = failure is not None
    if process_count() > 1:
        failed = bool(reduce_sum(torch.tensor(float(failed), device=device)) > 0)
    if failed:
        raise OutOfMemoryError from failure


@dataclass(frozen=True)
class Outcome:
    """Of one step, the same on every process.

    Attributes:
        loss: nan when it is not finite on any process.
        norm: of the gradients; nan when it is not finite on any process.
        seconds: training time so far, the mean of the processes.
        stopping: one of them was asked to stop.
        drew: one of them drew random numbers for its own rows.
    """

    loss: float
    norm: float
    seconds: float
    stopping: bool
    drew: bool


def agree(loss: Tensor, norm: Tensor, *, seconds: float, stopping: bool, drew: bool) -> Outcome:
    """The outcome of a step. Collective, and the one wait for the device in a step."""
    value, size = torch.stack([loss.double(), norm.to(loss.device).double()]).tolist()
    if process_count() == 1:
        return Outcome(value, size, seconds, stopping, drew)
    status = [float(not math.isfinite(value)), float(not math.isfinite(size)), float(stopping), float(drew), seconds]
    bad_loss, bad_size, asked, drawn, total = reduce_sum(torch.tensor(status, device=loss.device)).tolist()
    return Outcome(
        loss=math.nan if bad_loss else value,
        norm=math.nan if bad_size else size,
        seconds=total / process_count(),
        stopping=asked > 0,
        drew=drawn > 0,
    )


def refuse_draws(path: Path, began_with: int) -> None:
    """Stop a run that draws random numbers for the rows of a process, if it began with another number of them.

    Raises:
        ValueError: names both numbers and how to go on.
    """
    if began_with != process_count():
        raise ValueError(
            f"{path} began with {counted(began_with)} and its encoder draws random numbers (dropout, masks), which "
            f"each process draws for its own rows: with {counted(process_count())} it would be another run. Resume "
            f"it with {counted(began_with)} ({_launch(began_with)}), or start a new one in another out"
        )


def refuse_resuming(
    path: Path, checkpoint: Checkpoint, system: System, settings: TrainingSettings, rows: int, *, began_shared: bool
) -> None:
    """Refuse to go on where this number of processes cannot give what an unbroken run gives.

    Args:
        path: of the run.
        checkpoint: where it goes on.
        system, settings: of the run.
        rows: how many there are.
        began_shared: the run began with `shard`.

    Raises:
        ValueError: the stage draws random numbers for the rows of a process, or a batch has fewer rows than there are
            processes; names both numbers of processes and how to go on.
    """
    if checkpoint.draws:
        refuse_draws(path, checkpoint.processes)
        if began_shared != settings.shard and checkpoint.micro_batch is not None and process_count() > 1:
            raise ValueError(
                f"{path} began with shard={began_shared} and its encoder draws random numbers (dropout, masks) piece "
                f"by piece (micro_batch={checkpoint.micro_batch}): with shard={settings.shard} its pieces are others "
                "and it would be another run. Resume it as it began, or start a new one in another out"
            )
    stages = system.stages()[checkpoint.position.stage :]
    own = [stage.batch or (stage.optimiser or {}).get("batch") or settings.batch for stage in stages]
    smallest = min([rows, *own])
    if process_count() > max(smallest, checkpoint.processes):
        raise ValueError(
            f"{path} began with {counted(checkpoint.processes)} and has batches of {smallest} rows, which "
            f"{counted(process_count())} cannot share: resume it with at most {smallest} ({_launch(smallest)})"
        )


def counted(processes: int) -> str:
    """ "1 process", "2 processes" ..."""
    return "1 process" if processes == 1 else f"{processes} processes"


def _launch(processes: int) -> str:
    return "without torchrun" if processes == 1 else f"torchrun --nproc-per-node {processes}, on one machine"
