"""Remembered vectors of a frozen text encoder."""

from __future__ import annotations

import pytest
import torch

from counterpoint.encoders.frozen_texts import FrozenTexts
from counterpoint.encoders.text import TextEncoder

TEXTS = [f"{'a very ' * (index % 7)}small picture of number {index}" for index in range(90)]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder("bert:2x32x2", trainable="none").eval()


def test_values_are_the_encoders(encoder: TextEncoder) -> None:
    tokens, remembered = encoder.tokenize(TEXTS), FrozenTexts()
    torch.testing.assert_close(remembered(encoder, tokens), encoder(tokens), atol=1e-6, rtol=0)
    assert len(remembered) == len(TEXTS)


def test_values_do_not_depend_on_what_was_asked_before(encoder: TextEncoder) -> None:
    """A resumed run starts with nothing remembered and must still see the same bits."""
    unbroken, order = FrozenTexts(), torch.randperm(90, generator=torch.Generator().manual_seed(0)).tolist()
    first = unbroken(encoder, encoder.tokenize(TEXTS))
    for size in (1, 7, 40):
        resumed = FrozenTexts()
        for start in range(0, 90, size):
            some = order[start : start + size]
            assert torch.equal(resumed(encoder, encoder.tokenize([TEXTS[index] for index in some])), first[some])


def test_each_text_is_computed_once(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda tokens: calls.append(1) or original(tokens))
    remembered = FrozenTexts()
    remembered(encoder, encoder.tokenize(TEXTS[:5] * 3))
    before = len(calls)
    remembered(encoder, encoder.tokenize(list(reversed(TEXTS[:5]))))
    assert len(calls) == before


def test_changed_weights_are_noticed(encoder: TextEncoder) -> None:
    remembered, tokens = FrozenTexts(), encoder.tokenize(TEXTS[:4])
    old = remembered(encoder, tokens)
    saved = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.load_state_dict({name: value * 1.5 for name, value in saved.items()})
    new = remembered(encoder, tokens)
    assert (new - old).abs().max() > 1e-3
    encoder.load_state_dict(saved)
    assert torch.equal(remembered(encoder, tokens), old)


def test_it_forgets_what_was_unused_for_longest(encoder: TextEncoder) -> None:
    remembered = FrozenTexts(capacity=3)
    assert remembered(encoder, encoder.tokenize(TEXTS[:5])).shape == (5, 32)
    assert len(remembered) == 3
