"""Weighted k-nearest-neighbour accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from counterpoint.evaluation.knn import knn_scores
from counterpoint.evaluation.protocol import Measured, Protocol
from counterpoint.evaluation.task import Task
from counterpoint.evaluation.zero_shot import top_k_accuracy

__all__ = ["Knn"]


@dataclass(frozen=True)
class Knn(Protocol):
    """Classes voted by the nearest training rows (Wu et al. 2018, arXiv 1805.01978).

    Attributes:
        k: neighbours that vote.
        temperature: a neighbour's weight is exp(cosine / temperature).
    """

    columns: ClassVar[tuple[str, ...]] = ("label",)

    k: int = 20
    temperature: float = 0.07

    def run(self, task: Task) -> Measured:
        """Accuracy, top-5 accuracy where there are more than five classes."""
        train, test, source = task.labelled_parts()
        classes = int(max(train.labels.max(), test.labels.max())) + 1
        scores = knn_scores(
            train.vectors, train.labels, test.vectors, classes=classes, k=self.k, temperature=self.temperature
        )
        accuracies = top_k_accuracy(scores, test.labels, at=(1, 5) if classes > 5 else (1,))
        names = {k: "accuracy" if k == 1 else f"top{k}_accuracy" for k in accuracies}
        return Measured(
            {names[k]: value for k, value in accuracies.items()},
            {names[k]: k / classes for k in accuracies},
            {
                "classes": classes,
                "train": source,
                "train_rows": len(train.labels),
                "test_rows": len(test.labels),
            },
        )
