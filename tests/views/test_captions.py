"""Pictures with captions: which caption, which columns, and what a batch of them looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import BadRow, open_rows
from counterpoint.views.captions import Captioned, PictureOrText, caption_candidates, collate_captioned
from counterpoint.views.image import OneView, Resize


def _tokenize(texts: Sequence[str]) -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[len(text)] for text in texts])}


def test_draws_depend_on_the_generator_alone() -> None:
    row = {**open_rows("emoji:validation")[0], "text": ["one", "two", "three"]}
    view = Captioned(OneView(size=16))
    first, again, other = (view(row, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first["image"], again["image"]) and first["text"] == again["text"]
    assert not torch.equal(first["image"], other["image"])


def test_empty_candidates_are_passed_over() -> None:
    assert caption_candidates({"id": "0", "text": ["", "two", " "]}) == ["two"]
    assert caption_candidates({"id": "0", "text": "one"}) == ["one"]


@pytest.mark.parametrize("caption", [None, "", "  ", [], ["", " "], [3], 7.5])
def test_a_row_without_a_caption_is_bad(caption: object) -> None:
    with pytest.raises(BadRow, match="caption"):
        caption_candidates({"id": "0", "text": caption})


def test_inference_takes_what_there_is() -> None:
    row, preprocess = open_rows("emoji:validation")[0], PictureOrText(Resize(16))
    assert preprocess(row).keys() == {"image", "text"}
    assert preprocess({"id": "0", "image": row["image"], "text": None}).keys() == {"image"}
    with pytest.raises(BadRow, match="neither"):
        preprocess({"id": "0", "image": None, "text": None})
    with pytest.raises(KeyError, match="image"):
        preprocess({"id": "0", "label": 1})


def test_batches_hold_what_the_samples_have() -> None:
    picture = torch.zeros(3, 4, 4)
    assert collate_captioned([{"image": picture}] * 2, _tokenize).keys() == {"image"}
    both = collate_captioned([{"image": picture, "text": "ab"}, {"image": picture, "text": "c"}], _tokenize)
    assert both["image"].shape == (2, 3, 4, 4) and both["input_ids"].tolist() == [[2], [1]]
