from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from counterpoint.data.errors import BadRow
from counterpoint.views import text as views

TOKENS = st.lists(st.integers(0, 1000), min_size=1, max_size=60).map(torch.tensor)
SEEDS = st.integers(0, 2**32 - 1)


@given(TOKENS, st.floats(0.01, 1.0), SEEDS)
def test_a_crop_is_a_run_of_neighbours(tokens: Tensor, low: float, seed: int) -> None:
    length, start = views.draw_crop(np.random.default_rng(seed), len(tokens), ratio=(low, 1.0))
    assert 1 <= length <= len(tokens)
    assert length >= int(low * len(tokens))
    assert torch.equal(views.random_crop(tokens, length=length, start=start), tokens[start : start + length])


def test_crop_ratio_is_uniform_and_every_start_occurs() -> None:
    rng = np.random.default_rng(0)
    draws = [views.draw_crop(rng, 20, ratio=(0.1, 0.5)) for _ in range(4000)]
    lengths = Counter(length for length, _ in draws)
    assert set(lengths) == set(range(2, 11)) - {10}  # int(20 r), r < 0.5
    assert {start for length, start in draws if length == 9} == set(range(12))


def test_crops_outside_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="does not lie within 3 tokens"):
        views.random_crop(torch.arange(3), length=2, start=2)


@given(TOKENS, SEEDS, st.floats(0.0, 1.0))
def test_corruption_touches_what_the_draws_say(tokens: Tensor, seed: int, probability: float) -> None:
    uniforms = np.random.default_rng(seed).random(len(tokens))
    kept = [token for token, u in zip(tokens.tolist(), uniforms, strict=True) if u > probability]
    assert views.delete_tokens(tokens, uniforms, probability=probability).tolist() == kept
    masked = views.mask_tokens(tokens, uniforms, probability=probability, mask_id=-7)
    replaced = views.replace_tokens(tokens, uniforms, -torch.ones_like(tokens), probability=probability)
    for token, u, one, other in zip(tokens.tolist(), uniforms, masked.tolist(), replaced.tolist(), strict=True):
        assert (one, other) == ((-7, -1) if u <= probability else (token, token))


def test_a_wrong_number_of_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="2 numbers for 3 tokens"):
        views.delete_tokens(torch.arange(3), np.zeros(2), probability=0.5)


@given(TOKENS, SEEDS, st.floats(0.0, 1.0))
def test_shuffling_is_a_permutation_that_leaves_the_other_places(tokens: Tensor, seed: int, p: float) -> None:
    places, order = views.draw_shuffle(np.random.default_rng(seed), len(tokens), probability=p)
    shuffled = views.shuffle_tokens(tokens, places, order)
    assert sorted(shuffled.tolist()) == sorted(tokens.tolist())
    assert len(set(places)) == len(places)
    untouched = sorted(set(range(len(tokens))) - set(places))
    assert torch.equal(shuffled[untouched], tokens[untouched])


@given(TOKENS, SEEDS, st.floats(0.0, 3.0))
def test_repetition_keeps_order_ends_and_bound(tokens: Tensor, seed: int, rate: float) -> None:
    places = views.draw_repetition(np.random.default_rng(seed), len(tokens), rate=rate)
    repeated = views.repeat_tokens(tokens, places)
    assert 0 <= len(places) <= max(0, min(10, int(rate * len(tokens))) - 1)
    assert places == sorted(set(places)) and all(0 < place < len(tokens) - 1 for place in places)
    second = [place + number + 1 for number, place in enumerate(places)]  # where the copies stand
    assert torch.equal(repeated[second], tokens[places])
    assert torch.equal(repeated[[i for i in range(len(repeated)) if i not in second]], tokens)


def test_the_number_of_repetitions_is_uniform_below_its_exclusive_bound() -> None:
    rng = np.random.default_rng(0)
    for count, rate, bound in ((25, 0.32, 8), (50, 0.32, 10), (32, 0.32, 10)):
        drawn = np.array([len(views.draw_repetition(rng, count, rate=rate)) for _ in range(6000)])
        assert set(drawn) == set(range(bound))
        assert abs(drawn.mean() - (bound - 1) / 2) < 5 * drawn.std() / 6000**0.5


def test_short_sentences_are_not_repeated_beyond_their_tokens() -> None:
    rng = np.random.default_rng(0)
    assert all(len(views.draw_repetition(rng, 4, rate=5.0)) <= 2 for _ in range(200))
    assert views.draw_repetition(rng, 2, rate=5.0) == []
    assert views.draw_repetition(rng, 3, rate=0.32) == []  # int(0.96) = 0


@pytest.mark.parametrize("places", [[1, 1], [3], [-1]])
def test_places_that_make_no_sense_are_refused(places: list[int]) -> None:
    with pytest.raises(ValueError, match=r"distinct and lie in 0\.\.2"):
        views.repeat_tokens(torch.arange(3), places)


@given(st.integers(0, 40), SEEDS, st.floats(0.0, 2.0))
def test_repeated_words_never_include_the_last(count: int, seed: int, rate: float) -> None:
    places = views.draw_word_repetition(np.random.default_rng(seed), count, rate=rate)
    assert all(0 <= place < count - 1 for place in places)
    assert len(places) < max(1, min(10, count, max(2, int(rate * count))))


def test_words_are_doubled_in_place() -> None:
    assert views.repeat_words("a  quick\tfox", [0, 2]) == "a a quick fox fox"


@given(TOKENS, SEEDS)
def test_inverse_cloze_takes_the_span_out(tokens: Tensor, seed: int) -> None:
    length, start = views.draw_crop(np.random.default_rng(seed), len(tokens), ratio=(0.1, 0.5))
    span, rest = views.inverse_cloze(tokens, length=length, start=start)
    assert torch.equal(torch.cat([rest[:start], span, rest[start:]]), tokens)
    kept = views.inverse_cloze(tokens, length=length, start=start, keep=True)
    assert torch.equal(kept[0], span) and torch.equal(kept[1], tokens)


@given(st.integers(0, 100), st.integers(1, 9), st.integers(0, 8))
def test_chunks_tile_the_stream(total: int, length: int, offset: int) -> None:
    stream = torch.arange(total)
    count = views.chunk_count(total, length=length, offset=offset)
    chunks = [views.chunk(stream, i, length=length, offset=offset) for i in range(count)]
    assert all(len(chunk) == length for chunk in chunks)
    assert total - offset - count * length < length
    assert [int(t) for chunk in chunks for t in chunk] == list(range(offset, offset + count * length))
    with pytest.raises(ValueError, match="does not name one of"):
        views.chunk(stream, count, length=length, offset=offset)


def test_sources_are_drawn_uniformly_or_by_size() -> None:
    assert views.source_probabilities([1, 1000, 3], 0.0) == pytest.approx([1 / 3] * 3)
    assert views.source_probabilities([1, 5, 4], 1.0) == pytest.approx([0.1, 0.5, 0.4])


def test_padding_marks_what_is_real() -> None:
    ids, mask = views.pad_tokens([torch.tensor([5, 6, 7]), torch.tensor([8])], pad_id=9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_typography_is_normalised() -> None:
    assert views.normalise_text(" \u201cCafe\u0301\u201d \u2013  it\u2019s\n\tfine\u00a0") == '"Caf\u00e9" - it\'s fine'


@pytest.mark.parametrize("row", [{}, {"text": None}, {"text": "  "}, {"text": b"bytes"}])
def test_a_row_without_text_is_a_bad_row(row: dict[str, object]) -> None:
    with pytest.raises(BadRow, match="column 'text' holds no text"):
        views.read_text(row)
