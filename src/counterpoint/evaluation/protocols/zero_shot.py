"""Zero-shot classification by class names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from counterpoint.evaluation.classifying import classified
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.scoring import system_score, takes_names
from counterpoint.evaluation.task import Task
from counterpoint.evaluation.zero_shot import TEMPLATES, prompts, top_k_accuracy, zero_shot_scores

__all__ = ["ZeroShot"]


@dataclass(frozen=True)
class ZeroShot(Protocol):
    """Images or videos classified by the nearest class name (Radford et al. 2021, arXiv 2103.00020, section 3.1).

    A model whose `classify` takes class names does it in its own way, with the bare names. If only some of the classes
    are its own, those that it learnt and those that it did not are also scored by themselves, each among their like.

    Attributes:
        templates: prompts; "{}" stands for the class name.
    """

    columns: ClassVar[tuple[str, ...]] = ("label",)

    templates: tuple[str, ...] = TEMPLATES

    def run(self, task: Task) -> Measured:
        """Top-1 accuracy, top-5 where there are more than five classes."""
        names = task.rows.class_names
        if not names:
            raise NotApplicable("needs names of the classes; these labels are numbers without names")
        if not {"image", "video"} & set(task.rows.columns):
            raise NotApplicable(f"needs the column 'image' or 'video'; found {', '.join(task.rows.columns)}")
        scores, labels = _named(task, names) if takes_names(task.system) else self._nearest(task, names)
        accuracies = top_k_accuracy(scores, labels, at=(1, 5) if len(names) > 5 else (1,))
        keys = {k: "accuracy" if k == 1 else f"top{k}_accuracy" for k in accuracies}
        found = {keys[k]: value for k, value in accuracies.items()}
        chance = {keys[k]: k / len(names) for k in accuracies}
        for part, classes in _parts(task.system, names).items():
            rows = torch.isin(labels, torch.tensor(classes))
            if bool(rows.any()):
                best = torch.tensor(classes)[scores[rows][:, classes].argmax(dim=1)]
                found[f"{part}_accuracy"] = float((best == labels[rows]).double().mean())
                chance[f"{part}_accuracy"] = 1 / len(classes)
        return Measured(found, chance, {"classes": len(names), "test_rows": len(labels)})

    def _nearest(self, task: Task, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(N, C) similarities to the mean prompts, and the labels (N,)."""
        vectors = task.test_vectors()
        space = next((name for name in ("image", "video") if name in vectors.spaces), None)
        if space is None:
            raise NotApplicable("needs a model with a space of images or videos, and one of texts")
        column = task.rows.column("label")
        images, labels = _with_label(vectors.spaces[space], [column[place] for place in vectors.positions])
        wanted = prompts([name.replace("_", " ") for name in names], self.templates)
        texts = task.texts(wanted, key="zero_shot", space="text").unflatten(0, (len(names), -1))
        return zero_shot_scores(images, texts, score=system_score(task.system)), labels


def _parts(system: object, names: Sequence[str]) -> dict[str, list[int]]:
    """Numbers of the classes that a model knows as its own ("seen") and of the others; empty where it is not both."""
    own = set(getattr(system, "class_names", None) or ()) if takes_names(system) else set()
    parts = {
        "seen": [place for place, name in enumerate(names) if name in own],
        "unseen": [place for place, name in enumerate(names) if name not in own],
    }
    return parts if all(parts.values()) else {}


def _named(task: Task, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(N, C) probabilities by the model's own `classify`, and the labels (N,)."""
    labels = task.rows.column("label")
    wanted = [place for place, label in enumerate(labels) if label is not None]
    found: list[tuple[int, Tensor]] = []
    for start in range(0, len(wanted), task.batch):
        found += classified(task, wanted[start : start + task.batch], names)
    if not found:
        raise NotApplicable("no row with a label could be classified")
    return torch.stack([row for _, row in found]), torch.tensor([int(labels[place]) for place, _ in found])


def _with_label(images: Tensor, labels: list[int | None]) -> tuple[Tensor, Tensor]:
    kept = [row for row, label in enumerate(labels) if label is not None]
    return images[kept], torch.tensor([labels[row] for row in kept], dtype=torch.int64)
