"""What a linear map on the cells of a frozen encoder makes of masks."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.encoders.image import ImageEncoder
from counterpoint.evaluation.embedding import inference, to_device
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.segmentation import IGNORED, confusion, majority_cells, segmentation_scores
from counterpoint.evaluation.task import Task

__all__ = ["Segmentation"]

_BATCH = 32


@dataclass(frozen=True)
class Segmentation(Protocol):
    """Logistic regression on the cells of `encoder.maps`, learnt from a few rows with a `mask`, scored on the others.

    The class of a cell is the one that covers most of it. Its scores are enlarged bilinearly to the mask, whose every
    pixel then counts. Pictures must be square, so that picture and mask are cut alike.

    Attributes:
        learn: rows, drawn with the seed, that the probe learns from; they are not scored.
        strength: scikit-learn's C, on standardised features.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "mask")

    learn: int = 50
    strength: float = 0.1

    def run(self, task: Task) -> Measured:
        """Mean intersection over union, pixel accuracy, cell accuracy; a guesser says the commonest class."""
        encoder = getattr(task.system, "encoder", None)
        if not isinstance(encoder, ImageEncoder):
            raise NotApplicable("needs a model with an image encoder that has feature maps")
        rows = [row for row in task.rows.scan() if not isinstance(row, BadRow) and row["mask"] is not None]
        if len(rows) <= self.learn:
            raise NotApplicable(f"needs more than learn={self.learn} rows with a mask, found {len(rows)}")
        masks = [_mask(row["mask"]) for row in rows]
        maps = _maps(task.system, encoder, rows)  # (N, C, h, w)
        classes = max(int(mask[mask != IGNORED].max()) for mask in masks if (mask != IGNORED).any()) + 1
        cells = torch.stack([majority_cells(mask, (maps.shape[2], maps.shape[3]), classes) for mask in masks])
        order = task.rng().permutation(len(rows))
        known, scored = order[: self.learn], order[self.learn :]
        weight, bias = self._fit(maps[known], cells[known], classes)
        counts = torch.zeros(2, classes, classes, dtype=torch.int64)  # of pixels and of cells
        for row in scored.tolist():
            scores = torch.einsum("kc,chw->khw", weight, maps[row]) + bias[:, None, None]
            counts[1] += confusion(scores.argmax(dim=0), cells[row], classes)
            large = torch.nn.functional.interpolate(scores[None], size=masks[row].shape, mode="bilinear")[0]
            counts[0] += confusion(large.argmax(dim=0), masks[row], classes)
        pixels, by_cell = (segmentation_scores(count) for count in counts)
        commonest = [torch.zeros_like(count) for count in counts]
        for guess, count in zip(commonest, counts, strict=True):
            guess[:, int(count.sum(dim=1).argmax())] = count.sum(dim=1)
        guessed, guessed_cells = (segmentation_scores(count) for count in commonest)
        return Measured(
            {"mean_iou": pixels.mean_iou, "pixel_accuracy": pixels.accuracy, "cell_accuracy": by_cell.accuracy},
            {"mean_iou": guessed.mean_iou, "pixel_accuracy": guessed.accuracy, "cell_accuracy": guessed_cells.accuracy},
            {
                "classes": classes,
                "cells": list(maps.shape[2:]),
                "train_rows": len(known),
                "test_rows": len(scored),
                "iou_by_class": [None if np.isnan(value) else value for value in pixels.by_class],
            },
        )

    def _fit(self, maps: Tensor, cells: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Weight (K, C) and bias (K,) on raw features; a class that was not seen is never chosen."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        features, labels = maps.permute(0, 2, 3, 1).flatten(0, 2).numpy(), cells.flatten().numpy()
        features, labels = features[labels != IGNORED], labels[labels != IGNORED]
        if len(np.unique(labels)) < 3:
            raise NotApplicable(f"needs at least three classes in the {self.learn} rows it learns from")
        scaler = StandardScaler().fit(features)
        model = LogisticRegression(C=self.strength, max_iter=1000).fit(scaler.transform(features), labels)
        weight, bias = torch.zeros(classes, maps.shape[1]).double(), torch.full((classes,), -torch.inf).double()
        scaled = model.coef_ / scaler.scale_
        weight[model.classes_] = torch.from_numpy(scaled)
        bias[model.classes_] = torch.from_numpy(model.intercept_ - scaled @ scaler.mean_)
        return weight, bias


def _mask(value: Any) -> Tensor:
    """(H, W) int64 from the bytes or path of a picture of class numbers, or from an array."""
    if not isinstance(value, np.ndarray):
        value = np.asarray(Image.open(io.BytesIO(value) if isinstance(value, bytes) else value))
    if value.ndim != 2 or value.shape[0] != value.shape[1]:
        raise NotApplicable(f"a mask must be a square picture of one channel, got {value.shape}")
    return torch.from_numpy(value.astype(np.int64))


def _maps(system: Any, encoder: ImageEncoder, rows: list[dict[str, Any]]) -> Tensor:
    """(N, C, h, w) of rows, in double precision."""
    preprocess, found = system.preprocess(), []
    for start in range(0, len(rows), _BATCH):
        images = torch.stack([preprocess(row)["image"] for row in rows[start : start + _BATCH]])
        with inference(system):
            found.append(encoder.maps(to_device({"image": images}, system.device)["image"]).cpu().double())
    return torch.cat(found)
