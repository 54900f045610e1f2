"""What one training step computed, put together over accumulated batches, pieces and processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from counterpoint.distributed import reduce_sum
from counterpoint.system import System
from counterpoint.training.terms import Combined

__all__ = ["StepResult", "averaged", "check_features", "detached", "first_rows", "summed"]

Features = dict[str, Tensor]


@dataclass
class StepResult:
    """What one step computed; everything detached.

    Attributes:
        loss: scalar, of all processes.
        parts: name -> value of each term.
        guess: loss of a guesser over the guessed terms, or None.
        guessed: weighted sum of the terms that have a guess, or None.
        features: name -> rows of all processes (of this process for uncoupled systems).
        local: what `encode` returned here, for naming bad rows.
        rows: rows of this process.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    guess: float | None
    guessed: Tensor | None
    features: Features = field(default_factory=dict)
    local: Features = field(default_factory=dict)
    rows: int = 0


def first_rows(features: Mapping[str, Tensor]) -> int:
    """Rows of features."""
    return len(next(iter(features.values())))


def detached(features: Mapping[str, Tensor]) -> Features:
    """The same values without a graph; no copy."""
    return {name: value.detach() for name, value in features.items()}


def check_features(features: Any, system: System) -> None:
    """Refuse features whose first dimension is not the batch.

    Raises:
        TypeError: names the feature and what belongs elsewhere.
    """
    name = type(system).__name__
    if not isinstance(features, Mapping) or not features:
        raise TypeError(f"encode() of {name} must return a dict of tensors, got {type(features).__name__}")
    rows = None
    for key, value in features.items():
        if isinstance(value, Tensor) and value.dim() > 0:
            rows = len(value) if rows is None else rows
            if len(value) == rows:
                continue
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"feature {key!r} of {name} must be a tensor with the batch as first dimension, got {shape}; what is not "
            "one value a row (a temperature, prototypes) belongs into loss()"
        )


def _joined(kept: Sequence[Features]) -> Features:
    kept = [features for features in kept if features]
    if len(kept) <= 1:
        return dict(kept[0]) if kept else {}
    return {name: torch.cat([features[name] for features in kept]) for name in kept[0]}


def averaged(results: Sequence[StepResult]) -> StepResult:
    """Accumulated batches of a coupled system: the mean of their losses, all their rows."""
    if len(results) == 1:
        return results[0]
    first = results[0]
    guessed = [result.guessed for result in results if result.guessed is not None]
    return StepResult(
        loss=torch.stack([result.loss for result in results]).mean(),
        parts={name: torch.stack([result.parts[name] for result in results]).mean() for name in first.parts},
        guess=first.guess,
        guessed=torch.stack(guessed).mean() if guessed else None,
        features=_joined([result.features for result in results]),
        local=_joined([result.local for result in results]),
        rows=sum(result.rows for result in results),
    )


def summed(shares: Sequence[Combined], kept: Sequence[Features], rows: int) -> StepResult:
    """Pieces of an uncoupled system: each already is its share, so all are summed, over the processes too."""
    first = shares[0]
    names = sorted(first.parts)
    columns = [
        torch.stack([share.loss, *(share.parts[name] for name in names)]).double()  # (1 + terms,)
        for share in shares
    ]
    guessed = [share.guessed for share in shares if share.guessed is not None]
    total = torch.stack(columns).sum(dim=0)
    if guessed:
        total = torch.cat([total, torch.stack(guessed).double().sum().reshape(1)])
    total = reduce_sum(total)
    features = _joined(kept)
    return StepResult(
        loss=total[0],
        parts=dict(zip(names, total[1 : 1 + len(names)].unbind(), strict=True)),
        guess=first.guess,
        guessed=total[-1] if guessed else None,
        features=features,
        local=features,
        rows=rows,
    )
