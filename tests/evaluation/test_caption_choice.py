"""The caption among its distractors: on vectors whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.evaluation import evaluate
from counterpoint.system import System


class Letters(System):
    """A picture is a word; a text is embedded by the letters it holds, in order or not."""

    def __init__(self, *, ordered: bool) -> None:
        super().__init__()
        self.ordered = ordered

    def preprocess(self) -> Any:
        return _word if self.ordered else _bag

    def embed(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {name: rows for name, rows in batch.items() if name in ("image", "text")}


def _vector(word: str, *, ordered: bool) -> Tensor:
    vector = torch.zeros(26 * 4)
    for place, letter in enumerate(word):
        vector[(26 * place if ordered else 0) + ord(letter) - ord("a")] += 1
    return vector


def _word(row: dict[str, Any]) -> dict[str, Tensor]:
    return {name: _vector(row[name], ordered=True) for name in ("image", "text") if name in row}


def _bag(row: dict[str, Any]) -> dict[str, Tensor]:
    return {name: _vector(row[name], ordered=False) for name in ("image", "text") if name in row}


def _rows() -> Rows:
    rows = [("abcd", ["dcba"]), ("aabb", ["bbaa", "abab", "baba"]), ("wxyz", ["zyxw"])]
    return Rows.from_list([{"image": word, "text": word, "distractors": others} for word, others in rows])


def test_order_decides() -> None:
    found = evaluate(Letters(ordered=True), _rows(), protocols=["caption_choice"])
    assert found["scores"] == {"caption_choice/accuracy": 1.0}
    assert found["chance"]["caption_choice/accuracy"] == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)


def test_a_tie_is_no_hit() -> None:
    """A bag of letters cannot tell a caption from its distractor."""
    found = evaluate(Letters(ordered=False), _rows(), protocols=["caption_choice"])
    assert found["scores"] == {"caption_choice/accuracy": 0.0}


def test_what_is_missing_is_named() -> None:
    bare = Rows.from_list([{"image": "ab", "text": "ab"}])
    with pytest.raises(ValueError, match="needs the column 'distractors'"):
        evaluate(Letters(ordered=True), bare, protocols=["caption_choice"])
    empty = Rows.from_list([{"image": "ab", "text": "ab", "distractors": []}])
    with pytest.raises(ValueError, match="no row has distractors"):
        evaluate(Letters(ordered=True), empty, protocols=["caption_choice"])
