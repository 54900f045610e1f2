"""How well a model that segments pictures agrees with their masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.data.images import IGNORED, decode, decode_mask
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.segmentation import confusion, segmentation_scores
from counterpoint.evaluation.segmenting import segmented
from counterpoint.evaluation.task import Task

__all__ = ["SemanticSegmentation"]


@dataclass(frozen=True)
class SemanticSegmentation(Protocol):
    """Mean intersection over union of the model's own labels with `mask`, at the pictures' own resolution.

    Counted over all pixels of all rows together. Pixels of 255 count for nothing, and classes that neither the masks
    nor the model's labels hold are left out of the mean.

    Attributes:
        methods: of the model, each of which labels pictures. Scores of all but the first carry the method's name:
            `segment_by_text_mean_iou`.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "mask")

    methods: tuple[str, ...] = ("segment",)

    def run(self, task: Task) -> Measured:
        """`mean_iou` and `pixel_accuracy`; a guesser says the commonest class."""
        missing = [name for name in self.methods if not hasattr(task.system, name)]
        if missing or not self.methods:
            raise NotApplicable(f"needs a model that segments pictures (method {', '.join(missing) or 'segment'})")
        counts = [torch.zeros(0, 0, dtype=torch.int64) for _ in self.methods]
        pictures = 0
        for position, row in enumerate(task.rows.scan()):
            try:
                if isinstance(row, BadRow):
                    raise row
                if row["mask"] is None:
                    continue
                picture, mask = _read(row)
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
                continue
            pictures += 1
            for number, method in enumerate(self.methods):
                counts[number] = _added(counts[number], mask, segmented(task.system, picture, method=method))
        if not int(counts[0].sum()):
            raise NotApplicable("needs rows with a mask in which some pixel counts")
        return self._measured(counts, pictures)

    def _measured(self, counts: list[Tensor], pictures: int) -> Measured:
        truth = counts[0].sum(dim=1)
        guess = torch.zeros_like(counts[0])
        guess[:, int(truth.argmax())] = truth
        guessed = segmentation_scores(guess)
        found = [segmentation_scores(count) for count in counts]
        scores: dict[str, float] = {}
        chance: dict[str, float] = {}
        for number, (method, values) in enumerate(zip(self.methods, found, strict=True)):
            start = f"{method}_" if number else ""
            scores |= {f"{start}mean_iou": values.mean_iou, f"{start}pixel_accuracy": values.accuracy}
            chance |= {f"{start}mean_iou": guessed.mean_iou, f"{start}pixel_accuracy": guessed.accuracy}
        by_class = [None if math.isnan(value) else value for value in found[0].by_class]
        return Measured(scores, chance, {"pictures": pictures, "iou_by_class": by_class})


def _added(counts: Tensor, mask: np.ndarray, labels: np.ndarray) -> Tensor:
    """Counts (K, K) with those of one more picture; larger where it holds a class that was not seen before."""
    classes = max(len(counts), int(labels.max()) + 1, int(mask[mask != IGNORED].max(initial=-1)) + 1)
    grown = torch.nn.functional.pad(counts, (0, classes - len(counts)) * 2)
    return grown + confusion(torch.from_numpy(labels), torch.from_numpy(mask), classes)


def _read(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) and mask (H, W)."""
    picture, mask = np.array(decode(row["image"])), decode_mask(row["mask"])
    if mask.shape != picture.shape[:2]:
        raise BadRow(f"picture and mask differ in size: {picture.shape[:2]} and {mask.shape}")
    if int(mask.min()) < 0:
        raise BadRow(f"its mask holds {int(mask.min())}: class numbers begin at 0, and {IGNORED} is ignored")
    return picture, mask
