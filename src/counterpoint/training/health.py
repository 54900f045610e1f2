"""Says why a run does not learn: figures of the embedding on every log interval, and warnings that mean something.

A condition must hold over several looks, without getting better, before it is a warning; each kind is warned of once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.geometry import alignment, duplicate_rate, effective_rank, hardest_share, uniformity

__all__ = ["REMEDIES", "HealthMonitor", "HealthWarning", "Observation", "embedding_figures"]

_ROWS = 512
"""Rows of a batch that the figures of the embedding are taken from."""
_LOOKS = 3
_RANK, _DUPLICATES = 2.0, 0.2
_AT_GUESS = 0.02
_IDLE_UPDATE = 1e-6
_WAIT_SHARE, _WAIT_SECONDS = 0.5, 0.02

REMEDIES = {
    "collapse": "Usual remedies: more negatives or a larger batch, a predictor or stop-gradient where the method has "
    "one, a lower learning rate, a longer warm-up; for clustering methods a lower epsilon or prototypes frozen longer.",
    "duplicates": "Usual remedies: remove near-duplicate rows or give `group`, a column whose values may not meet in a "
    "batch; check that the views differ and that the encoder is not constant.",
    "guess": "Usual remedies: check that the two views of a row belong together, raise the learning rate (10x), lower "
    "the temperature, and see whether the encoder is frozen.",
    "idle": "Usual remedies: raise the learning rate (10x to 1000x); check parameter_groups() and the schedule.",
    "no_gradient": "Usual remedies: check that encode() does not detach, that the wanted parts are not frozen, and "
    "that the loss depends on the features.",
    "starvation": "Usual remedies: more `workers`, smaller pictures on disk, a faster disk, or views that decode less.",
}


@dataclass(frozen=True)
class HealthWarning:
    """Something that is wrong: kind, what was seen, the usual remedy, and the step it was seen at."""

    kind: str
    message: str
    remedy: str
    step: int


@dataclass(frozen=True)
class Observation:
    """What the monitor sees at one log line.

    Attributes:
        figures: step, loss, guess, guessed_loss, gradient_norm, update_ratio, wait_share ...
        pair: (N, D) embeddings and their (N, D) positives, or None.
        temperature: of their contrast with the other rows of the batch, or None when there is none.
        wait_per_step: seconds.
        settled: the warm-up is over.
        rate_share: learning rate over the schedule's highest.
    """

    figures: dict[str, Any]
    pair: tuple[Tensor, Tensor] | None = None
    temperature: float | None = None
    wait_per_step: float = 0.0
    settled: bool = True
    rate_share: float = 1.0


@dataclass
class _Watch:
    """Since when a condition holds, its value then, and how often it was seen."""

    step: int
    value: float
    looks: int = 1


def embedding_figures(first: Tensor, second: Tensor, temperature: float | None = None) -> dict[str, float]:
    """Effective rank, alignment, uniformity and duplicate rate of embeddings (N, D) and their positives (N, D).

    With the temperature of a contrast between them also the share of its push that falls on the hardest tenth of the
    negatives. The first 512 rows count; all but the rank is that of the normalised rows.
    """
    first, second = first[:_ROWS].detach().float(), second[:_ROWS].detach().float()
    if len(first) < 2 or not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        return {}
    unit, other = normalize(first, dim=1), normalize(second, dim=1)
    rank = float(effective_rank(first))
    share = {} if not temperature else {"hardest_share": hardest_share(unit, other, temperature=temperature)}
    return {
        "effective_rank": rank if math.isfinite(rank) else 1.0,  # identical rows span nothing
        "alignment": float(alignment(unit, other)),
        "uniformity": float(uniformity(unit)),
        "duplicate_rate": float(duplicate_rate(first)),
        **share,
    }


@dataclass
class HealthMonitor:
    """Watches a run.

    Attributes:
        warned: kind -> step of every warning so far.
    """

    warned: dict[str, int] = field(default_factory=dict)
    _watches: dict[str, _Watch] = field(default_factory=dict)

    @classmethod
    def from_memory(cls, memory: dict[str, Any]) -> HealthMonitor:
        """The monitor of a run that goes on."""
        watches = {kind: _Watch(**values) for kind, values in memory.get("watches", {}).items()}
        return cls(dict(memory.get("warned", {})), watches)

    def memory(self) -> dict[str, Any]:
        """JSON values that `from_memory` takes."""
        return {
            "warned": dict(self.warned),
            "watches": {k: dict(vars(watch)) for k, watch in self._watches.items()},
        }

    def observe(self, seen: Observation) -> tuple[dict[str, Any], list[HealthWarning]]:
        """Figures with those of the embedding added, and warnings that are new."""
        figures = dict(seen.figures)
        dimension = 0
        if seen.pair is not None:
            figures |= embedding_figures(*seen.pair, seen.temperature)
            dimension = min(seen.pair[0].shape[-1], len(seen.pair[0]))
        found = []
        for kind, holds, value, message in _conditions(figures, seen, dimension):
            if self._persists(kind, holds, value, int(figures["step"])):
                self.warned[kind] = int(figures["step"])
                found.append(HealthWarning(kind, message, REMEDIES[kind], int(figures["step"])))
        return figures, found

    def _persists(self, kind: str, holds: bool, value: float, step: int) -> bool:
        """True once, when a condition has held long enough. `value` falls when things get better."""
        if not holds:
            self._watches.pop(kind, None)
            return False
        watch = self._watches.get(kind)
        if watch is None or value < watch.value - _BETTER[kind]:
            self._watches[kind] = _Watch(step, value)
            return False
        watch.looks += 1
        return watch.looks >= _LOOKS and step - watch.step >= _SPAN[kind] and kind not in self.warned

    @staticmethod
    def line(figures: dict[str, Any]) -> str:
        """The health line for the terminal."""
        guess = f" (guess {figures['guess']:.3f})" if "guess" in figures else ""
        parts = [f"step {figures['step']}", f"loss {figures['loss']:.4f}{guess}"]
        names = {
            "effective_rank": "rank",
            "alignment": "align",
            "uniformity": "uniform",
            "duplicate_rate": "dup",
        }
        parts += [f"{short} {figures[name]:.3g}" for name, short in names.items() if name in figures]
        parts += [f"|g| {figures['gradient_norm']:.3g}", f"{figures['examples_per_second']:.0f}/s"]
        return "  ".join(parts)


_BETTER = {
    "collapse": 0.1,
    "duplicates": 0.05,
    "guess": 0.005,
    "idle": math.inf,
    "no_gradient": math.inf,
    "starvation": math.inf,
}
"""By how much the value must fall to count as getting better; the watch then begins anew."""
_SPAN = {"collapse": 30, "duplicates": 30, "guess": 30, "idle": 20, "no_gradient": 20, "starvation": 20}
"""Steps over which a condition must hold."""


def _conditions(figures: dict[str, Any], seen: Observation, dimension: int) -> list[tuple[str, bool, float, str]]:
    """(kind, holds now, value that falls when it gets better, message) of every condition that can be judged."""
    checks = []
    rank, duplicates = figures.get("effective_rank"), figures.get("duplicate_rate")
    guess, guessed = figures.get("guess"), figures.get("guessed_loss")
    if rank is not None and dimension >= 4:
        message = f"the embedding has collapsed: effective rank {rank:.2f} of {dimension}."
        checks.append(("collapse", seen.settled and rank < _RANK, -rank, message))
    if duplicates is not None:
        message = f"{100 * duplicates:.0f} % of a batch have a near-duplicate in it: they are each other's negatives."
        checks.append(("duplicates", seen.settled and duplicates > _DUPLICATES, duplicates, message))
    if guess and guessed is not None:
        message = f"the loss {guessed:.3f} is no better than guessing ({guess:.3f})."
        checks.append(("guess", seen.settled and guessed >= guess * (1 - _AT_GUESS), guessed / guess, message))
    norm, update = figures.get("gradient_norm", 1.0), figures.get("update_ratio", 1.0)
    checks.append(("no_gradient", norm == 0, 0.0, "the gradient is exactly zero: nothing is trained."))
    idle = seen.settled and seen.rate_share > 0.1 and norm > 0 and update < _IDLE_UPDATE
    rate = figures.get("learning_rate", 0.0)
    message = f"a step changes the weights by {update:.1e} of their size: the learning rate {rate:g} does nothing."
    checks.append(("idle", idle, 0.0, message))
    share = figures.get("wait_share", 0.0)
    starved = share > _WAIT_SHARE and seen.wait_per_step > _WAIT_SECONDS
    message = f"{100 * share:.0f} % of the time is spent waiting for data."
    checks.append(("starvation", starved, 0.0, message))
    return checks
