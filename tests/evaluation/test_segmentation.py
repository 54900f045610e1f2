"""Masks, confusion and the linear probe on cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterpoint.data import Rows
from counterpoint.encoders.image import ImageEncoder
from counterpoint.evaluation.protocol import NotApplicable
from counterpoint.evaluation.protocols.segmentation import Segmentation
from counterpoint.evaluation.segmentation import IGNORED, confusion, majority_cells, segmentation_scores
from counterpoint.evaluation.task import Task
from counterpoint.views.image import Resize


def test_the_class_of_a_cell_is_the_one_that_covers_most() -> None:
    mask = torch.tensor(
        [[1, 1, 0, IGNORED], [1, 2, IGNORED, IGNORED], [2, 2, IGNORED, IGNORED], [2, 0, IGNORED, IGNORED]]
    )
    assert majority_cells(mask, (2, 2), 3).tolist() == [[1, 0], [2, IGNORED]]


def test_scores_against_loops() -> None:
    rng = np.random.default_rng(0)
    predicted, mask = (torch.from_numpy(rng.integers(0, 3, (9, 7))) for _ in range(2))
    mask[0, :3] = IGNORED
    found = segmentation_scores(confusion(predicted, mask, 4))
    pairs = [(p, m) for p, m in zip(predicted.flatten().tolist(), mask.flatten().tolist(), strict=True) if m != IGNORED]
    overlaps = []
    for c in range(3):
        both = sum(p == c and m == c for p, m in pairs)
        overlaps.append(both / sum(p == c or m == c for p, m in pairs))
    assert found.by_class[:3] == pytest.approx(overlaps) and math.isnan(found.by_class[3])
    assert found.mean_iou == pytest.approx(sum(overlaps) / 3)
    assert found.accuracy == pytest.approx(sum(p == m for p, m in pairs) / len(pairs))
    with pytest.raises(ValueError, match="no pixel"):
        segmentation_scores(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="agree"):
        confusion(predicted, mask[:2], 4)


class _Colours(ImageEncoder):
    """Cells that are the mean colour of 4 x 4 pixels."""

    def maps(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 4)


class _System(nn.Module):
    device = torch.device("cpu")

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def preprocess(self) -> Resize:
        return Resize(16)


def _rows(count: int) -> Rows:
    """Quarters of a colour that says their class."""
    colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]])
    rows: list[dict[str, Any]] = []
    for number in range(count):
        classes = np.random.default_rng(number).integers(0, 3, (2, 2)).repeat(8, 0).repeat(8, 1)
        rows.append({"id": str(number), "image": colours[classes].astype(np.uint8), "mask": classes.astype(np.uint8)})
    return Rows.from_list(rows)


def test_a_linear_map_reads_colours() -> None:
    found = Segmentation(learn=10).run(Task(_System(_Colours("test_resnet?size=32")), _rows(30), seed=1))
    assert found.scores["cell_accuracy"] == 1.0
    assert 0.8 < found.scores["mean_iou"] <= found.scores["pixel_accuracy"] <= 1.0
    assert found.chance["mean_iou"] < 0.2
    assert found.notes["train_rows"] == 10 and found.notes["test_rows"] == 20 and found.notes["cells"] == [4, 4]


def test_what_it_cannot_score_is_refused() -> None:
    with pytest.raises(NotApplicable, match="feature maps"):
        Segmentation().run(Task(_System(nn.Identity()), _rows(3)))
    with pytest.raises(NotApplicable, match="learn=50"):
        Segmentation().run(Task(_System(_Colours("test_resnet?size=32")), _rows(3)))
