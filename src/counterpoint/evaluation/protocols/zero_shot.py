"""Zero-shot classification by class names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.scoring import system_score
from counterpoint.evaluation.task import Task
from counterpoint.evaluation.zero_shot import TEMPLATES, prompts, top_k_accuracy, zero_shot_scores

__all__ = ["ZeroShot"]


@dataclass(frozen=True)
class ZeroShot(Protocol):
    """Images classified by the nearest class name (Radford et al. 2021, arXiv 2103.00020, section 3.1).

    Attributes:
        templates: prompts; "{}" stands for the class name.
    """

    columns: ClassVar[tuple[str, ...]] = ("label", "image")

    templates: tuple[str, ...] = TEMPLATES

    def run(self, task: Task) -> Measured:
        """Top-1 accuracy, top-5 where there are more than five classes."""
        names = task.rows.class_names
        if not names:
            raise NotApplicable("needs names of the classes; these labels are numbers without names")
        vectors = task.test_vectors()
        if "image" not in vectors.spaces:
            raise NotApplicable("needs a model with an image and a text space")
        column = task.rows.column("label")
        images, labels = _with_label(vectors.spaces["image"], [column[place] for place in vectors.positions])
        wanted = prompts([name.replace("_", " ") for name in names], self.templates)
        texts = task.texts(wanted, key="zero_shot", space="text").unflatten(0, (len(names), -1))
        scores = zero_shot_scores(images, texts, score=system_score(task.system))
        accuracies = top_k_accuracy(scores, labels, at=(1, 5) if len(names) > 5 else (1,))
        keys = {k: "accuracy" if k == 1 else f"top{k}_accuracy" for k in accuracies}
        return Measured(
            {keys[k]: value for k, value in accuracies.items()},
            {keys[k]: k / len(names) for k in accuracies},
            {"classes": len(names), "test_rows": len(labels)},
        )


def _with_label(images: Tensor, labels: list[int | None]) -> tuple[Tensor, Tensor]:
    kept = [row for row, label in enumerate(labels) if label is not None]
    return images[kept], torch.tensor([labels[row] for row in kept], dtype=torch.int64)
