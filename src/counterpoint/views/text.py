"""Views of text: pure functions on token ids (the drawn numbers are arguments) and samplers that draw them.

Token ids are 1-D int64 tensors. Everything random takes a NumPy generator, so that a sample is a pure
function of the seed, the epoch and the row.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data.errors import BadRow

__all__ = [
    "add_special_tokens",
    "chunk",
    "chunk_count",
    "crop_length",
    "delete_tokens",
    "draw_crop",
    "draw_repetition",
    "draw_shuffle",
    "draw_word_repetition",
    "inverse_cloze",
    "mask_tokens",
    "normalise_text",
    "pad_tokens",
    "random_crop",
    "read_text",
    "repeat_tokens",
    "repeat_words",
    "replace_tokens",
    "shuffle_tokens",
    "source_probabilities",
]

MOST_REPETITIONS = 10
"""The number of repetitions is drawn below this, however long the sentence (ESimCSE, official code)."""

_ASCII = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u2039\u203a", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
    }
)


def normalise_text(text: str) -> str:
    """Unicode NFC, typographic quotes and dashes to ASCII, runs of blanks to one, ends stripped."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).translate(_ASCII)).strip()


def read_text(row: Mapping[str, Any], column: str = "text") -> str:
    """The text in a column.

    Raises:
        BadRow: there is none.
    """
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"column {column!r} holds no text but {text!r:.40}")
    return text


def crop_length(count: int, ratio: float) -> int:
    """Tokens in a crop of `ratio` of `count`: int(count * ratio), but at least one where there is one."""
    return min(count, max(1, int(count * ratio)))


def random_crop(tokens: Tensor, *, length: int, start: int) -> Tensor:
    """`length` neighbouring tokens from `start` on (Contriever, section 3).

    Raises:
        ValueError: the span does not lie within the tokens.
    """
    if start < 0 or length < 0 or start + length > len(tokens):
        raise ValueError(f"the span {start}..{start + length} does not lie within {len(tokens)} tokens")
    return tokens[start : start + length]


def draw_crop(rng: np.random.Generator, count: int, *, ratio: tuple[float, float]) -> tuple[int, int]:
    """(length, start) of a crop of `count` tokens: share uniform within `ratio`, place uniform."""
    length = crop_length(count, rng.uniform(*ratio))
    return length, int(rng.integers(0, count - length + 1))


def inverse_cloze(tokens: Tensor, *, length: int, start: int, keep: bool = False) -> tuple[Tensor, Tensor]:
    """A span and the text around it (Lee et al. 2019, inverse cloze task).

    Args:
        tokens: (n,).
        length, start: the span.
        keep: leave the span in its text as well.

    Returns:
        (length,) the span and (n - length,) its text, or all n with `keep`.
    """
    span = random_crop(tokens, length=length, start=start)
    return span, tokens if keep else torch.cat([tokens[:start], tokens[start + length :]])


def _touched(tokens: Tensor, uniforms: np.ndarray, probability: float) -> Tensor:
    if len(uniforms) != len(tokens):
        raise ValueError(f"uniforms has {len(uniforms)} numbers for {len(tokens)} tokens; draw one a token")
    return torch.from_numpy(np.asarray(uniforms) <= probability)  # (n,)


def delete_tokens(tokens: Tensor, uniforms: np.ndarray, *, probability: float) -> Tensor:
    """(n,) -> the tokens whose uniform draw in [0, 1) exceeds `probability`."""
    return tokens[~_touched(tokens, uniforms, probability)]


def mask_tokens(tokens: Tensor, uniforms: np.ndarray, *, probability: float, mask_id: int) -> Tensor:
    """(n,) -> (n,) with `mask_id` where the draw is at most `probability`."""
    return tokens.masked_fill(_touched(tokens, uniforms, probability), mask_id)


def replace_tokens(
    tokens: Tensor, uniforms: np.ndarray, replacements: Tensor | np.ndarray, *, probability: float
) -> Tensor:
    """(n,) -> (n,) with `replacements[i]` where the draw is at most `probability`; `replacements` is (n,)."""
    return torch.where(_touched(tokens, uniforms, probability), torch.as_tensor(replacements), tokens)


def shuffle_tokens(tokens: Tensor, positions: Sequence[int], order: Sequence[int]) -> Tensor:
    """(n,) -> (n,): place `positions[i]` gets the token of `positions[order[i]]`; a true permutation."""
    places = torch.as_tensor(positions, dtype=torch.int64)
    shuffled = tokens.clone()
    shuffled[places] = tokens[places[torch.as_tensor(order, dtype=torch.int64)]]
    return shuffled


def draw_shuffle(rng: np.random.Generator, count: int, *, probability: float) -> tuple[list[int], list[int]]:
    """(positions, order) for `shuffle_tokens`: as many places as uniform draws fall below `probability`."""
    chosen = int((rng.random(count) < probability).sum())
    return rng.choice(count, chosen, replace=False).tolist(), rng.permutation(chosen).tolist()


def repeat_tokens(tokens: Tensor, positions: Sequence[int]) -> Tensor:
    """(n,) -> (n + k,): tokens at the k distinct `positions` are written twice in a row (ESimCSE, 3.1).

    Raises:
        ValueError: a position is named twice or lies outside the tokens.
    """
    if len(set(positions)) != len(positions) or any(not 0 <= place < len(tokens) for place in positions):
        raise ValueError(f"positions {list(positions)} must be distinct and lie in 0..{len(tokens) - 1}")
    times = torch.ones(len(tokens), dtype=torch.int64)
    times[torch.as_tensor(positions, dtype=torch.int64)] = 2
    return tokens.repeat_interleave(times)


def repeat_words(sentence: str, positions: Sequence[int]) -> str:
    """The sentence with the words (split on white space) at `positions` written twice in a row."""
    chosen = set(positions)
    words = sentence.split()
    return " ".join(word for i, word in enumerate(words) for _ in range(2 if i in chosen else 1))


def draw_repetition(rng: np.random.Generator, count: int, *, rate: float) -> list[int]:
    """Places that `repeat_tokens` doubles in a sequence of `count` ids, special tokens at both ends included.

    The number is uniform in {0, ..., min(10, int(rate * count)) - 1}, the upper bound exclusive as in the
    official code, and never more than there are inner tokens; the places are distinct and never the first or
    the last one.
    """
    bound = min(MOST_REPETITIONS, int(rate * count))
    if bound < 1 or count < 3:
        return []
    chosen = min(int(rng.integers(0, bound)), count - 2)
    return sorted((1 + rng.choice(count - 2, chosen, replace=False)).tolist())


def draw_word_repetition(rng: np.random.Generator, count: int, *, rate: float) -> list[int]:
    """Places that `repeat_words` doubles among `count` words; never the last.

    The number is uniform in {0, ..., min(10, count, max(2, int(rate * count))) - 1}.
    """
    bound = min(MOST_REPETITIONS, count, max(2, int(rate * count)))
    if bound < 1:
        return []
    return sorted(rng.choice(count - 1, int(rng.integers(0, bound)), replace=False).tolist() if count > 1 else [])


def chunk_count(total: int, *, length: int, offset: int = 0) -> int:
    """Whole chunks of `length` in a stream of `total` tokens after the first `offset`."""
    return max(0, (total - offset) // length)


def chunk(tokens: Tensor, index: int, *, length: int, offset: int = 0) -> Tensor:
    """(T,) -> (length,): chunk number `index` of a stream that is cut every `length` tokens from `offset` on.

    Raises:
        ValueError: the stream has no such chunk.
    """
    count = chunk_count(len(tokens), length=length, offset=offset)
    if not 0 <= index < count:
        raise ValueError(f"index {index} does not name one of the {count} chunks of length {length}")
    return random_crop(tokens, length=length, start=offset + index * length)


def source_probabilities(lengths: Sequence[int], coefficient: float) -> np.ndarray:
    """(S,): chance of each source, proportional to (share of all tokens) ** coefficient; 0 is uniform."""
    shares = (np.asarray(lengths, dtype=np.float64) / np.sum(lengths)) ** coefficient
    return shares / shares.sum()


def add_special_tokens(tokens: Tensor, *, start: int, end: int) -> Tensor:
    """(n,) -> (n + 2,): `start` (BOS, [CLS]), the tokens, `end` (EOS, [SEP])."""
    return torch.cat([tokens.new_tensor([start]), tokens, tokens.new_tensor([end])])


def pad_tokens(sequences: Sequence[Tensor], *, pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """B sequences of ids -> ids (B, L) padded at the end and mask (B, L), int64, 1 where there is a token."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])  # (B,)
    ids = torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=pad_id)  # (B, L)
    mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]  # (B, L)
    return ids, mask.long()
