"""What a system says about its training: weighted terms, phases, and where the clock stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Clock", "Stage", "Term"]


@dataclass(frozen=True)
class Term:
    """A loss term that is a mean over an uneven count: divided by the count of all processes and micro-batches.

    Attributes:
        total: sum over the counted things, scalar, differentiable.
        count: how many were counted (tensor or number), not differentiable; None for a mean over the rows.
        guess: loss of a guesser for the mean (ln N, ln K), for the health line.
        weight: factor of this term in the sum.
    """

    total: Tensor
    count: Tensor | float | None = None
    guess: float | None = None
    weight: float = 1.0

    @classmethod
    def mean(cls, value: Tensor, *, guess: float | None = None, weight: float = 1.0) -> Term:
        """A value that is already the mean over the whole batch."""
        return cls(value, None, guess, weight)


@dataclass
class Clock:
    """Where training stands; set by the trainer before each step, saved with the run.

    `progress` runs from 0 to 1 over the stage: by steps, or by time when the run is limited by time.
    """

    step: int = 0
    epoch: int = 0
    total_steps: int = 1
    progress: float = 0.0
    stage: str = "train"


@dataclass(frozen=True)
class Stage:
    """One phase of training. Fields left None come from the system or the run's settings.

    Attributes:
        name: unique within the system.
        steps: optimiser steps, or None for what the run's settings say.
        train: prefixes of parameter names that are trained; () trains everything that requires a gradient.
        encode, loss, views: names of methods of the system that replace `encode`, `loss`, `views` here.
        sources: names of the data sources that are read; () reads all.
        batch: rows a step.
        optimiser: settings that replace the run's (name, learning_rate ...). Stages naming the same `state` share it.
        state: name of the optimiser state; the stage's own name by default.
        until: name of a method of the system; the stage ends early when it returns True.
    """

    name: str = "train"
    steps: int | None = None
    train: tuple[str, ...] = ()
    encode: str | None = None
    loss: str | None = None
    views: str | None = None
    sources: tuple[str, ...] = ()
    batch: int | None = None
    optimiser: Mapping[str, Any] | None = None
    state: str | None = None
    until: str | None = None
