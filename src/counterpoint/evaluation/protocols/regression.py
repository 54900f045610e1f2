"""Errors of a ridge regression of `target` on frozen vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from counterpoint.data import Rows
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.regression import STRENGTHS, regression_errors, ridge_probe
from counterpoint.evaluation.task import Labelled, Task, Vectors

__all__ = ["Regression"]

_HELD_OUT = 0.2


@dataclass(frozen=True)
class Regression(Protocol):
    """Ridge regression on standardised vectors; its strength is chosen by cross-validation over training rows.

    A guesser says the median of the training targets (`mae`) or their mean (`rmse`). Without training rows of their
    own, a fifth of the given rows is scored and the rest is learnt from.

    Attributes:
        strengths: penalties to choose from.
    """

    columns: ClassVar[tuple[str, ...]] = ("target",)

    strengths: tuple[float, ...] = STRENGTHS

    def run(self, task: Task) -> Measured:
        """Mean absolute error, root mean squared error and Pearson correlation on the scored rows."""
        train, test, source = _parts(task)
        wanted = test.labels.numpy()
        if len(train.labels) < 2 or len(wanted) < 2 or (wanted == wanted[0]).all():
            raise NotApplicable(
                "needs two rows with a target to learn from and two different targets to score; found "
                f"{len(train.labels)} and {len(np.unique(wanted))}"
            )
        found = ridge_probe(train.vectors, train.labels, test.vectors, strengths=self.strengths, seed=task.seed)
        errors = regression_errors(found.predictions, wanted)
        known = train.labels.numpy()
        guess = {
            "mae": float(np.abs(wanted - np.median(known)).mean()),
            "rmse": float(np.sqrt(((wanted - known.mean()) ** 2).mean())),
            "pearson": 0.0,
        }
        notes = {
            "train": source,
            "train_rows": len(known),
            "test_rows": len(wanted),
            "strength": found.strength,
            "mae_by_strength_in_cross_validation": {str(s): e for s, e in found.selection.items()},
        }
        return Measured(errors._asdict(), guess, notes)


def _parts(task: Task) -> tuple[Labelled, Labelled, str]:
    """(rows to learn from, rows to score, where the first come from)."""
    whole = _with_targets(task.test_vectors(), task.rows)
    if task.train_rows is not None and "target" in task.train_rows.columns:
        return _with_targets(task.embed(task.train_rows, key="train"), task.train_rows), whole, task.train_source
    order = torch.from_numpy(task.rng().permutation(len(whole.labels)))
    test, train = order.tensor_split([math.ceil(_HELD_OUT * len(order))])
    parts = [Labelled(whole.vectors[part], whole.labels[part]) for part in (train, test)]
    return parts[0], parts[1], f"{len(train)} of the given rows; scored on the other {len(test)}"


def _with_targets(vectors: Vectors, rows: Rows) -> Labelled:
    """Main vectors and targets (N,) float64 of the embedded rows that have one."""
    targets = rows.column("target")
    found = [_number(targets[position]) for position in vectors.positions]
    kept = [row for row, target in enumerate(found) if target is not None]
    return Labelled(vectors.main[kept], torch.tensor([found[row] for row in kept], dtype=torch.float64))


def _number(value: Any) -> float | None:
    """A finite number; None where there is none."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise NotApplicable(f"needs numbers in the column 'target', found {value!r}") from None
    return number if math.isfinite(number) else None
