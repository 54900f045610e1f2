"""Seconds of a training step: in our trainer, and in loops of other libraries."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from counterpoint.data import Rows
from counterpoint.system import System
from counterpoint.training.settings import TrainingSettings


class Clock:
    """Mean seconds between two ticks, the first ones left out."""

    def __init__(self, skipped: int, device: str = "cpu") -> None:
        self.skipped, self.device = skipped, device
        self.times: list[float] = []

    def tick(self) -> None:
        """A step is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def mean(self) -> float:
        """Seconds of a step."""
        kept = self.times[self.skipped :]
        return (kept[-1] - kept[0]) / (len(kept) - 1)


def timed(kind: type[System], clock: Clock) -> type[System]:
    """The same system, telling the clock of every step."""

    class Timed(kind):  # type: ignore[misc, valid-type]
        """As its parent."""

        def after_step(self, features: Any) -> None:
            super().after_step(features)
            clock.tick()

    Timed.__name__, Timed.__module__ = kind.__name__, kind.__module__
    return Timed


def trainer_step(
    build: Callable[[type[System]], System],
    kind: type[System],
    rows: Rows,
    settings: Mapping[str, Any],
    *,
    skipped: int,
    device: str = "cpu",
) -> float:
    """Seconds of a step of `counterpoint.train`, everything it does between two steps included.

    Args:
        build: makes the system from its class.
        kind: that class.
        rows: to train on.
        settings: of the run; they name `steps`.
        skipped: first steps that do not count.
        device: where it runs.
    """
    from counterpoint.training.train import train

    clock = Clock(skipped, device)
    with tempfile.TemporaryDirectory() as folder:
        chosen = TrainingSettings.build({**settings, "device": device})
        train(build(timed(kind, clock)), rows, out=Path(folder, "run"), settings=chosen, quiet=True)
    return clock.mean()


def flops_of(call: Callable[[], Any]) -> float:
    """Multiplications and additions of what `call` does, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return float(counter.get_total_flops())
