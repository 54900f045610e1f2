"""Checkpoints: everything a run needs to go on to the bit, as safetensors and JSON, sealed and atomic."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from counterpoint import sealing
from counterpoint.run import list_checkpoints
from counterpoint.storage import CorruptedError
from counterpoint.training.optimisers import OptimiserState

__all__ = [
    "KEPT",
    "Checkpoint",
    "Position",
    "list_checkpoints",
    "read_checkpoint",
    "read_newest",
    "write_checkpoint",
]

KEPT = 2


@dataclass
class Position:
    """Where a run stands, between two steps.

    Attributes:
        stage: number of the stage.
        step: steps done in the stage.
        total: steps done in the run.
        epoch, batch: where the stage's data go on.
        seconds: training time so far.
        stage_began: training time when the stage began.
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    stage_began: float = 0.0

    def advance(self, epoch: int, batch: int, batches: int) -> None:
        """A step is done; the data go on with number `batch` of the `batches` of an epoch."""
        self.step += 1
        self.total += 1
        self.epoch, self.batch = (epoch + 1, 0) if batch >= batches else (epoch, batch)


@dataclass
class Checkpoint:
    """Everything that goes on.

    Attributes:
        weights: the system's state: weights, queues, momentum encoders, statistics.
        optimisers: state name -> parameter name -> state.
        position: where the run stands.
        scaler: of float16 training.
        micro_batch: what running out of memory has made of the setting.
        skipped: (id, reason) of rows that could not be used.
        seen: rows read, by all processes.
        health: memory of the health monitor.
        processes: how many processes the run began with.
        draws: the stage it stands in has drawn random numbers for the rows of a process, so that it cannot go on with
            another number of them.
    """

    weights: Mapping[str, Tensor]
    optimisers: dict[str, OptimiserState]
    position: Position
    scaler: dict[str, Any] = field(default_factory=dict)
    micro_batch: int | None = None
    skipped: list[list[str]] = field(default_factory=list)
    seen: int = 0
    health: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    draws: bool = False


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder`/<step>/ and remove all but the last two.

    Raises:
        StorageError: the disk is full, read-only or gone; older checkpoints are intact.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for state_name, state in checkpoint.optimisers.items():
        for parameter, values in state.items():
            for key, value in values.items():
                place = f"{state_name}/{parameter}/{key}"
                if isinstance(value, Tensor):
                    tensors[place] = value
                else:
                    numbers[place] = value
    rest = {name: getattr(checkpoint, name) for name in _VALUES}
    path = sealing.write_state(
        folder / f"{checkpoint.position.total:08d}",
        tensors={"model": checkpoint.weights, "optimiser": tensors},
        values={"state": {"position": asdict(checkpoint.position), "optimiser": numbers, **rest}},
    )
    for old in list_checkpoints(folder)[:-KEPT]:
        sealing.remove_directory(old)
    return path


_VALUES = ("scaler", "micro_batch", "skipped", "seen", "health", "processes", "draws")


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify and read one checkpoint.

    Raises:
        CorruptedError: any bit differs from what was written; names the file.
    """
    tensors, values = sealing.read_state(path)
    try:
        state = values["state"]
        optimisers: dict[str, OptimiserState] = {}
        for place, value in {**tensors["optimiser"], **state["optimiser"]}.items():
            state_name, rest_of_name = place.split("/", 1)
            parameter, key = rest_of_name.rsplit("/", 1)
            optimisers.setdefault(state_name, {}).setdefault(parameter, {})[key] = value
        rest = {name: state[name] for name in _VALUES}
        return Checkpoint(tensors["model"], optimisers, Position(**state["position"]), **rest)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptedError(f"{path} is not a checkpoint of this version: {error!r}") from error


def read_newest(folder: Path) -> tuple[Checkpoint, Path] | None:
    """The newest checkpoint that is undamaged, or None when there are none at all.

    A damaged one is named in a warning and the one before it is taken.

    Raises:
        CorruptedError: there are checkpoints, but every one is damaged.
    """
    paths = list_checkpoints(folder)
    problems = []
    for path in reversed(paths):
        try:
            return read_checkpoint(path), path
        except CorruptedError as error:
            problems.append(str(error))
            if path != paths[0]:
                warnings.warn(f"{error}. Going on from the checkpoint before it", stacklevel=2)
    if problems:
        raise CorruptedError(f"no checkpoint in {folder} is usable: {'; '.join(problems)}. Start the run again")
    return None
