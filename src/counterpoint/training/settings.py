"""Everything a training run can be told, apart from the system's own arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterpoint.construction import check_names, construct

__all__ = ["LIMITS", "RESUMABLE", "TrainingSettings", "merge_settings"]

OPTIMISERS = ("adamw", "sgd", "lars", "larc", "lamb")
SCHEDULES = ("cosine", "linear", "constant")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
LIMITS = ("steps", "epochs", "seconds")
"""What ends a run; giving one replaces those that a recipe gives."""
RESUMABLE = ("workers", "log_every", "save_every", "device", "max_skip_rate", "shard")
"""What may change when a run is continued, because the weights do not depend on it (on `shard`: but for rounding)."""
_UNSHARED = {"optimiser": ("lars", "larc", "lamb"), "precision": ("16-mixed",), "compile": (True,)}
"""Values of settings that need whole weights or gradients in one place."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a system is trained.

    The first of `steps`, `epochs` and `seconds` that is reached ends the run; with none of them it runs 10 epochs.

    Attributes:
        batch: rows whose features meet in one loss, of all processes together.
        steps: optimiser steps of a stage that does not say itself.
        epochs: passes over the data instead of steps.
        seconds: training time. Schedules then follow the time; such a run cannot be repeated to the bit.
        optimiser: "adamw", "sgd", "lamb", "lars", or "larc" (LARS whose rate is never above the schedule's).
        learning_rate: the highest of the schedule.
        weight_decay: for parameters with two and more dimensions, unless the system's groups say otherwise.
        momentum: of sgd, lars and larc.
        betas: of adamw and lamb.
        epsilon: of adamw and lamb.
        schedule: "cosine", "linear" or "constant" after the warm-up.
        warmup_steps: steps in which the learning rate rises linearly.
        warmup_fraction: the same as a share of the run, in [0, 1); the longer of the two counts.
        final_learning_rate: where cosine and linear end.
        clip_gradient: largest norm of all gradients together; larger ones are scaled down.
        micro_batch: rows a process encodes at once; less memory, same gradient (gradient caching).
        accumulate: batches whose gradients are averaged before one optimiser step; each has its own loss.
        precision: "32-true", "bf16-mixed" or "16-mixed" (autocast, with a loss scaler for float16).
        compile: run `torch.compile` over `encode`.
        shard: each process keeps only its share of the encoders' weights, gradients and optimiser state (FSDP2);
            with adamw or sgd, in 32-true or bf16-mixed. Means nothing on one process.
        workers: processes that load data; the result does not depend on it.
        seed: of weights, order, views and dropout.
        log_every: steps between lines of metrics.jsonl.
        save_every: steps between checkpoints; about every 2 minutes of training by default.
        device: "auto", "cpu", "cuda" or "cuda:1".
        deterministic: use torch's deterministic algorithms.
        max_skip_rate: share of unusable rows, in [0, 1], above which the run is given up.
        group: a column; a batch then never holds two rows with the same value, so near-duplicates are no negatives.
    """

    batch: int = 256
    steps: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    schedule: str = "cosine"
    warmup_steps: int = 0
    warmup_fraction: float = 0.0
    final_learning_rate: float = 0.0
    clip_gradient: float | None = None
    micro_batch: int | None = None
    accumulate: int = 1
    precision: str = "32-true"
    compile: bool = False
    shard: bool = False
    workers: int = 0
    seed: int = 0
    log_every: int = 10
    save_every: int | None = None
    device: str = "auto"
    deterministic: bool = True
    max_skip_rate: float = 0.10
    group: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("batch", "accumulate", "log_every", "steps", "epochs", "seconds", "micro_batch", "save_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        for name in ("learning_rate", "weight_decay", "final_learning_rate", "warmup_steps", "workers", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        if self.clip_gradient is not None and not self.clip_gradient > 0:
            raise ValueError(f"clip_gradient must be above 0, or None for no limit; got {self.clip_gradient!r}")
        for name, low in (("warmup_fraction", 0.0), ("momentum", 0.0)):
            if not low <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)!r}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if not 0 <= self.max_skip_rate <= 1:
            raise ValueError(f"max_skip_rate must be in [0, 1], got {self.max_skip_rate!r}")
        if self.shard:
            self._check_shard()

    def _check_shard(self) -> None:
        unfit = [f"{name}={getattr(self, name)}" for name, values in _UNSHARED.items() if getattr(self, name) in values]
        if unfit:
            raise ValueError(
                f"{unfit[0]} needs whole weights and gradients on every process: with shard=true use optimiser=adamw "
                "or sgd, precision=32-true or bf16-mixed, and no compile"
            )

    @classmethod
    def names(cls) -> list[str]:
        """All settings."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """Settings from plain values (a recipe, a config.yaml).

        Raises:
            ValueError: an unknown or unusable setting; names it and the nearest known one.
        """
        check_names(values, cls.names(), "training")
        return construct(cls, values)


def merge_settings(base: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Recipe values with the user's on top; a limit (steps, epochs, seconds) of theirs replaces all the recipe's."""
    overrides = {name: value for name, value in (overrides or {}).items() if value is not None}
    check_names(overrides, TrainingSettings.names(), "training")
    limited = any(name in overrides for name in LIMITS)
    kept = {name: value for name, value in base.items() if not (limited and name in LIMITS)}
    return {**kept, **overrides}
