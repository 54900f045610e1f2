from __future__ import annotations

import numpy as np
import pytest
from transformers import AutoTokenizer

from counterpoint.encoders.text import TextEncoder
from counterpoint.views.sentences import SentencePair

ROW = {"id": "a", "text": "the quick brown fox jumps over the lazy dog while many small birds sing in old green trees"}


@pytest.fixture(scope="module")
def tokenizer() -> AutoTokenizer:
    return TextEncoder("bert:1x8x1").tokenizer


def _lengths(view: SentencePair, row: dict[str, str] = ROW) -> list[int]:
    return [len(view(row, np.random.default_rng(seed))["sentences"][1]) for seed in range(40)]


@pytest.mark.parametrize("unit", ["bpe", "word"])
def test_only_the_copy_grows(tokenizer: AutoTokenizer, unit: str) -> None:
    view = SentencePair(tokenizer, 64, repetition=0.32, unit=unit)
    plain = view.ids(ROW["text"]).tolist()
    for seed in range(20):
        anchor, copy = view(ROW, np.random.default_rng(seed))["sentences"]
        assert anchor.tolist() == plain
        assert len(plain) <= len(copy) <= len(plain) + 9
        assert list(dict.fromkeys(copy.tolist())) == list(dict.fromkeys(plain))
    assert len(set(_lengths(view))) > 3


def test_without_repetition_both_are_equal(tokenizer: AutoTokenizer) -> None:
    first, second = SentencePair(tokenizer, 64)(ROW, np.random.default_rng(0))["sentences"]
    assert first.tolist() == second.tolist()


def test_once_means_the_same_in_every_epoch_but_not_for_every_row(tokenizer: AutoTokenizer) -> None:
    view = SentencePair(tokenizer, 64, repetition=0.32, redraw=False)
    assert len(set(_lengths(view))) == 1
    assert len({_lengths(view, {**ROW, "id": str(number)})[0] for number in range(20)}) > 3


def test_repeated_tokens_come_on_top_of_the_cut(tokenizer: AutoTokenizer) -> None:
    view = SentencePair(tokenizer, 10, repetition=0.9)
    assert max(_lengths(view)) > 10
    assert min(_lengths(view)) == 10
