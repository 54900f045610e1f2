"""Accuracy of a logistic regression on frozen vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from counterpoint.evaluation.linear_probe import STRENGTHS, linear_probe
from counterpoint.evaluation.protocol import Measured, Protocol
from counterpoint.evaluation.task import Task

__all__ = ["LinearProbe"]


@dataclass(frozen=True)
class LinearProbe(Protocol):
    """Logistic regression on standardised vectors; its strength is chosen on a split of the training rows.

    Attributes:
        strengths: values of C to choose from.
    """

    columns: ClassVar[tuple[str, ...]] = ("label",)

    strengths: tuple[float, ...] = STRENGTHS

    def run(self, task: Task) -> Measured:
        """Accuracy on the scored rows."""
        train, test, source = task.labelled_parts()
        found = linear_probe(
            train.vectors, train.labels, test.vectors, test.labels, strengths=self.strengths, seed=task.seed
        )
        classes = len(train.labels.unique())
        return Measured(
            {"accuracy": found.accuracy},
            {"accuracy": 1 / classes},
            {
                "classes": classes,
                "train": source,
                "train_rows": len(train.labels),
                "test_rows": len(test.labels),
                "strength": found.strength,
                "accuracy_by_strength_on_held_out_train_rows": {str(c): a for c, a in found.selection.items()},
            },
        )
