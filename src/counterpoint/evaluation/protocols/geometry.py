"""Shape of the embedding: spread, dimensions in use, duplicates, and how near positives are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task, main_space
from counterpoint.geometry import alignment, duplicate_rate, effective_rank, tolerance, uniformity

__all__ = ["Geometry"]


@dataclass(frozen=True)
class Geometry(Protocol):
    """Uniformity and alignment (Wang & Isola 2020, arXiv 2005.10242), effective rank, near-duplicates.

    With labels also tolerance (Wang & Liu 2021, arXiv 2012.09740). Measured on unit vectors. Positives are an image and
    its text, or, with labels, two rows of one class.

    Attributes:
        rows: at most so many rows, drawn with the seed: the measures look at all pairs.
        duplicate_threshold: cosine from which two rows count as duplicates.
    """

    rows: int = 2000
    duplicate_threshold: float = 0.999

    def run(self, task: Task) -> Measured:
        """Measures of each space of (N, D) vectors."""
        found = task.test_vectors()
        chosen = np.sort(task.rng().permutation(len(found.positions))[: self.rows])
        spaces = {name: normalize(rows[chosen], dim=1) for name, rows in found.spaces.items() if rows.dim() == 2}
        if not spaces or len(chosen) < 2:
            raise NotApplicable("needs at least two rows with a vector each")
        known = task.labels(task.rows) if "label" in task.rows.columns else []
        labels = [known[position] for position in found.positions[chosen]] if known else []
        classes = _numbered(labels)
        scores: dict[str, float] = {}
        for name, vectors in spaces.items():
            prefix = "" if len(spaces) == 1 else f"{name}_"
            scores[f"{prefix}uniformity"] = float(uniformity(vectors))
            scores[f"{prefix}effective_rank"] = float(effective_rank(vectors))
            scores[f"{prefix}duplicate_rate"] = float(duplicate_rate(vectors, threshold=self.duplicate_threshold))
            if classes is not None:
                scores[f"{prefix}tolerance"] = float(tolerance(vectors[classes[0]], classes[1]))
        pair = _positives(spaces, labels, task)
        if pair is not None:
            scores["alignment"] = float(alignment(*pair))
        return Measured(scores, {}, {"rows": len(chosen), "dimensions": {n: v.shape[1] for n, v in spaces.items()}})


def _numbered(labels: list[object]) -> tuple[Tensor, Tensor] | None:
    """Places of the rows that have a label, and a number for each one's class; None unless a class occurs twice."""
    places = [row for row, label in enumerate(labels) if label is not None]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels[row] for row in places))}
    if len(numbers) == len(places):
        return None
    return torch.tensor(places), torch.tensor([numbers[labels[row]] for row in places])


def _positives(spaces: Mapping[str, Tensor], labels: list[object], task: Task) -> tuple[Tensor, Tensor] | None:
    """Two (P, D) tensors of positives: image and text, else each row and the next of its class."""
    if "image" in spaces and "text" in spaces and spaces["image"].shape == spaces["text"].shape:
        return spaces["image"], spaces["text"]
    members: dict[object, list[int]] = {}
    for row in task.rng().permutation(len(labels)):
        if labels[row] is not None:
            members.setdefault(labels[row], []).append(int(row))
    pairs = [pair for rows in members.values() for pair in zip(rows, rows[1:], strict=False)]
    if not pairs:
        return None
    first, second = torch.tensor(pairs).T
    vectors = spaces[main_space(dict(spaces))]
    return vectors[first], vectors[second]
