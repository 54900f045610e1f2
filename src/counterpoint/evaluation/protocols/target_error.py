"""Errors of a model's own answers to a regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from counterpoint.data import BadRow
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.regression import regression_errors
from counterpoint.evaluation.task import Task

__all__ = ["TargetError"]


@dataclass(frozen=True)
class TargetError(Protocol):
    """What the model's own `regress` says, against the targets, in their unit.

    A guesser says the median (`mae`) or the mean (`rmse`) of the scored targets themselves, the best single answer.
    """

    columns: ClassVar[tuple[str, ...]] = ("target",)

    def run(self, task: Task) -> Measured:
        """Mean absolute error, root mean squared error and Pearson correlation."""
        if not hasattr(task.system, "regress"):
            raise NotApplicable("needs a model that answers with numbers")
        answers: list[float] = []
        wanted: list[float] = []
        for place, row in enumerate(task.rows.scan()):
            try:
                if isinstance(row, BadRow):
                    raise row
                if row["target"] is None or not math.isfinite(float(row["target"])):
                    continue
                answers += task.system.regress([row]).tolist()
                wanted.append(float(row["target"]))
            except BadRow as error:
                task.skipped[task.rows.row_id(place)] = str(error)
        targets = np.array(wanted)
        if len(np.unique(targets)) < 2:
            raise NotApplicable(f"needs two different targets to score, found {len(np.unique(targets))}")
        errors = regression_errors(np.array(answers), targets)
        guess = {
            "mae": float(np.abs(targets - np.median(targets)).mean()),
            "rmse": float(targets.std()),
            "pearson": 0.0,
        }
        return Measured(errors._asdict(), guess, {"rows": len(targets)})
