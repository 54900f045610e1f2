"""Masks as cells, confusion counts, and the scores of a segmentation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from counterpoint.data.images import IGNORED

__all__ = ["IGNORED", "SegmentationScores", "confusion", "majority_cells", "segmentation_scores"]


class SegmentationScores(NamedTuple):
    """Mean of intersection over union, share of right pixels, and intersection over union by class (NaN if absent)."""

    mean_iou: float
    accuracy: float
    by_class: list[float]


def majority_cells(mask: Tensor, size: tuple[int, int], classes: int) -> Tensor:
    """(H, W) class numbers -> (h, w): the class that covers most of each cell; `IGNORED` where nothing counts.

    Args:
        mask: int64, `IGNORED` at pixels that do not count.
        size: (h, w), at most (H, W).
        classes: number of classes.
    """
    valid = mask != IGNORED
    one_hot = torch.nn.functional.one_hot(mask.masked_fill(~valid, 0), classes) * valid[..., None]  # (H, W, K)
    shares = torch.nn.functional.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).double(), size)  # (K, h, w)
    return shares.argmax(dim=0).masked_fill(shares.sum(dim=0) == 0, IGNORED)


def confusion(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Counts (K, K) of pixels, true class by predicted class, from two (H, W) of class numbers."""
    if predicted.shape != mask.shape:
        raise ValueError(f"predicted is {tuple(predicted.shape)}, mask {tuple(mask.shape)}: they must agree")
    valid = mask != IGNORED
    pairs = mask[valid] * classes + predicted[valid]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def segmentation_scores(counts: Tensor) -> SegmentationScores:
    """Scores from confusion counts (K, K) over all pictures; classes in neither are left out of the mean."""
    right, either = counts.diagonal().double(), (counts.sum(0) + counts.sum(1) - counts.diagonal()).double()
    if not int(counts.sum()):
        raise ValueError("no pixel counts: every mask is empty or ignored")
    overlap = right / either  # NaN where a class is absent
    return SegmentationScores(
        float(overlap[either > 0].mean()), float(right.sum() / counts.sum()), [float(value) for value in overlap]
    )
