"""Accuracy of a model's own classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from counterpoint.data import Rows
from counterpoint.evaluation.classifying import classified
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.scoring import answers_rows
from counterpoint.evaluation.task import Task
from counterpoint.evaluation.zero_shot import top_k_accuracy

__all__ = ["Classification", "class_codes"]


@dataclass(frozen=True)
class Classification(Protocol):
    """What the model's own `classify` says, against the labels."""

    columns: ClassVar[tuple[str, ...]] = ("label",)

    def run(self, task: Task) -> Measured:
        """Accuracy, its mean over the classes, and each class's own in the notes."""
        if not answers_rows(task.system):
            raise NotApplicable("needs a model with classes of its own")
        codes = class_codes(task.rows, getattr(task.system, "class_names", None))
        wanted = [place for place, code in enumerate(codes) if code is not None]
        parts, labels = [], []
        for start in range(0, len(wanted), task.batch):
            for place, probabilities in classified(task, wanted[start : start + task.batch]):
                parts.append(probabilities)
                labels.append(codes[place])
        if not labels:
            raise NotApplicable("no row has a class that the model knows")
        scores, right = torch.stack(parts), torch.tensor(labels)  # (N, K), (N,)
        hits = (scores.argmax(dim=1) == right).double()
        by_class = {int(code): float(hits[right == code].mean()) for code in right.unique()}
        accuracies = top_k_accuracy(scores, right, at=(1, 5) if scores.shape[1] > 5 else (1,))
        found = {"accuracy" if k == 1 else f"top{k}_accuracy": value for k, value in accuracies.items()}
        found["mean_class_accuracy"] = sum(by_class.values()) / len(by_class)
        guess = 1 / scores.shape[1]
        chance = {name: 5 * guess if name == "top5_accuracy" else guess for name in found}
        names = getattr(task.system, "class_names", None)
        named = {str(code) if names is None else names[code]: value for code, value in by_class.items()}
        return Measured(found, chance, {"classes": scores.shape[1], "rows": len(right), "accuracy_by_class": named})


def class_codes(rows: Rows, class_names: Sequence[str] | None) -> list[int | None]:
    """The label of each row as a number of the model's classes; None for no label or an unknown class."""
    labels: list[Any] = rows.column("label")
    if class_names is None or rows.class_names is None:
        return [None if label is None else int(label) for label in labels]
    places = {name: place for place, name in enumerate(class_names)}
    return [None if label is None else places.get(rows.class_names[label]) for label in labels]
