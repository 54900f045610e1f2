"""A model's own labels against masks: counts over all pixels, its several answers, and what cannot be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.data.images import IGNORED, decode, decode_mask, encode_png
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.protocol import NotApplicable
from counterpoint.evaluation.protocols.semantic_segmentation import SemanticSegmentation
from counterpoint.evaluation.segmenting import segmented
from counterpoint.evaluation.task import Task
from toy_models import ImageModel


class Channels(ImageModel):
    """The class of a pixel is its strongest channel; a second answer is always class 0."""

    def segment(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32 and 0 <= float(images.min()) <= float(images.max()) <= 1
        assert not self.training and not torch.is_grad_enabled()
        return images.argmax(dim=1)

    def nothing(self, images: Tensor) -> Tensor:
        return torch.zeros_like(images[:, 0], dtype=torch.int64)


def _row(number: int, height: int, width: int) -> dict[str, Any]:
    """Random colours, and a mask that is right for about two thirds of the pixels and ignores some."""
    rng = np.random.default_rng(number)
    picture = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    mask = picture.argmax(axis=2).astype(np.uint8)
    wrong = rng.random(mask.shape) < 1 / 3
    mask[wrong] = rng.integers(0, 3, int(wrong.sum()))
    mask[rng.random(mask.shape) < 0.2] = IGNORED
    return {"id": str(number), "image": encode_png(picture), "mask": encode_png(mask)}


def _rows() -> list[dict[str, Any]]:
    return [_row(0, 9, 7), _row(1, 4, 12), _row(2, 1, 5)]


def _expected(answer: Any) -> tuple[float, float, list[float]]:
    """Mean IoU, accuracy and IoU of each class, counted pixel by pixel over all pictures."""
    said, true = [], []
    for row in _rows():
        picture, mask = np.asarray(decode(row["image"])), decode_mask(row["mask"])
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if mask[y, x] != IGNORED:
                    said.append(answer(picture[y, x]))
                    true.append(int(mask[y, x]))
    overlaps = []
    for number in range(3):
        both = sum(a == b == number for a, b in zip(said, true, strict=True))
        either = sum(number in pair for pair in zip(said, true, strict=True))
        overlaps.append(both / either)
    return sum(overlaps) / 3, sum(a == b for a, b in zip(said, true, strict=True)) / len(true), overlaps


def test_against_loops_over_the_pixels() -> None:
    found = SemanticSegmentation(methods=("segment", "nothing")).run(Task(Channels(), Rows.from_list(_rows())))
    mean_iou, accuracy, overlaps = _expected(lambda colour: int(np.argmax(colour)))
    zero_iou, zero_accuracy, _ = _expected(lambda colour: 0)
    assert found.scores == pytest.approx(
        {
            "mean_iou": mean_iou,
            "pixel_accuracy": accuracy,
            "nothing_mean_iou": zero_iou,
            "nothing_pixel_accuracy": zero_accuracy,
        }
    )
    assert found.notes["iou_by_class"] == pytest.approx(overlaps) and found.notes["pictures"] == 3
    shares = [_expected(lambda colour, k=k: k)[1] for k in range(3)]
    assert found.chance["pixel_accuracy"] == pytest.approx(max(shares))
    assert found.chance["mean_iou"] == pytest.approx(max(shares) / 3)
    assert found.scores["mean_iou"] > found.chance["mean_iou"]


def test_through_the_front_door_rows_that_cannot_be_used_are_listed() -> None:
    bad = {**_row(3, 5, 5), "id": "other size", "mask": encode_png(np.zeros((4, 5), np.uint8))}
    broken = {"id": "broken", "image": b"no picture", "mask": _row(3, 5, 5)["mask"]}
    unlabelled = {**_row(4, 5, 5), "id": "unlabelled", "mask": None}
    below = {**_row(5, 2, 2), "id": "below zero", "mask": np.full((2, 2), -1, np.int64)}
    rows = Rows.from_list([*_rows(), bad, broken, unlabelled, below])
    found = evaluate(Channels(), rows, protocols=["semantic_segmentation"])
    alone = evaluate(Channels(), Rows.from_list(_rows()), protocols=["semantic_segmentation"])
    assert found["scores"] == alone["scores"]
    assert [row["id"] for row in found["skipped"]] == ["below zero", "broken", "other size"]


def test_a_class_that_only_one_picture_holds_counts() -> None:
    rows = [*_rows(), {"id": "x", "image": np.zeros((2, 2, 3), np.uint8), "mask": np.full((2, 2), 6, np.uint8)}]
    found = SemanticSegmentation().run(Task(Channels(), Rows.from_list(rows)))
    by_class = found.notes["iou_by_class"]
    assert len(by_class) == 7 and by_class[6] == 0.0 and by_class[3:6] == [None] * 3
    present = [value for value in by_class if value is not None]
    assert found.scores["mean_iou"] == pytest.approx(sum(present) / 4)


def test_what_it_cannot_score_is_refused() -> None:
    rows = Rows.from_list(_rows())
    with pytest.raises(NotApplicable, match=r"needs a model that segments pictures \(method segment\)"):
        SemanticSegmentation().run(Task(ImageModel(), rows))
    with pytest.raises(NotApplicable, match=r"\(method by_magic\)"):
        SemanticSegmentation(methods=("segment", "by_magic")).run(Task(Channels(), rows))
    ignored = [{"id": "a", "image": np.zeros((2, 2, 3), np.uint8), "mask": np.full((2, 2), IGNORED, np.uint8)}]
    with pytest.raises(NotApplicable, match="some pixel counts"):
        SemanticSegmentation().run(Task(Channels(), Rows.from_list(ignored)))


@pytest.mark.parametrize(
    "answer", [torch.zeros(1, 3, 4, dtype=torch.int64), torch.zeros(1, 4, 3), [[0, 1]], torch.zeros(4, 3).long()]
)
def test_answers_of_another_form_are_named(answer: Any) -> None:
    class Odd(ImageModel):
        def segment(self, images: Tensor) -> Any:
            return answer

    with pytest.raises(ValueError, match=r"Odd.segment must give whole numbers of shape \(1, 4, 3\), got"):
        segmented(Odd(), np.zeros((4, 3, 3), np.uint8))
