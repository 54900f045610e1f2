"""Pairs of texts for retrieval: two views of one document, or a query with its passage and its negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from counterpoint.data.errors import BadRow
from counterpoint.views.text import (
    add_special_tokens,
    delete_tokens,
    draw_crop,
    draw_shuffle,
    inverse_cloze,
    mask_tokens,
    normalise_text,
    random_crop,
    read_text,
    replace_tokens,
    shuffle_tokens,
)

if TYPE_CHECKING:
    from counterpoint.data import Row

__all__ = ["CropPair", "Crops", "Labelled", "LabelledPair", "TextReader", "choose_negatives"]


@dataclass(frozen=True)
class Crops:
    """How two views are made of one document.

    Attributes:
        pair: "crop" takes two independent random crops, "cloze" a crop and the text around it.
        chunk: tokens of the document that are looked at, from a random place; all of a shorter one.
        ratio: smallest and largest share of the chunk in a crop.
        augmentation: "delete", "mask", "replace", "shuffle" or "none", on each crop by itself.
        probability: chance of a token to be touched.
        keep: chance that the cloze leaves the span in its text.
    """

    pair: Literal["crop", "cloze"] = "crop"
    chunk: int = 256
    ratio: tuple[float, float] = (0.05, 0.5)
    augmentation: Literal["delete", "mask", "replace", "shuffle", "none"] = "delete"
    probability: float = 0.1
    keep: float = 0.1

    def __post_init__(self) -> None:
        low, high = self.ratio
        if not 0 < low <= high <= 1:
            raise ValueError(f"crops.ratio must be two ascending shares in (0, 1], got {self.ratio}")
        if self.chunk < 2:
            raise ValueError(f"crops.chunk must be at least 2 tokens, got {self.chunk}")
        for name in ("probability", "keep"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"crops.{name} must be in [0, 1], got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Labelled:
    """Fine-tuning on rows with `query`, `positive` and (a text or a list) `negative`, `hard_negative`.

    Attributes:
        negatives: texts a query, besides the positives of the others; 0 uses the positives alone.
        hard_ratio: share of them drawn from `hard_negative`.
        hard_from: rank in `hard_negative` from which on texts are drawn.
        clean: normalise typography and white space first.
    """

    negatives: int = 1
    hard_ratio: float = 0.0
    hard_from: int = 0
    clean: bool = False

    def __post_init__(self) -> None:
        if self.negatives < 0 or self.hard_from < 0:
            raise ValueError(f"labelled.negatives and labelled.hard_from must not be negative, got {self}")
        if not 0 <= self.hard_ratio <= 1:
            raise ValueError(f"labelled.hard_ratio must be in [0, 1], got {self.hard_ratio!r}")


def choose_negatives(
    rng: np.random.Generator, random: Sequence[str], hard: Sequence[str], settings: Labelled
) -> list[str]:
    """round(hard_ratio * negatives) texts of `hard`, the others of `random`, without replacement.

    A list that is too short is filled from the other; both together too short, the texts are taken again.

    Raises:
        BadRow: both lists are empty.
    """
    lists = [list(rng.permutation(np.array(texts, dtype=object))) for texts in (hard[settings.hard_from :], random)]
    wanted = round(settings.hard_ratio * settings.negatives)
    first = lists[0][:wanted] + lists[1][: settings.negatives - wanted]
    spare = lists[0][wanted:] + lists[1][settings.negatives - wanted :]
    found = first + spare
    if not found:
        raise BadRow("columns 'negative' and 'hard_negative' hold no text; set labelled.negatives to 0")
    return [str(found[i % len(found)]) for i in range(settings.negatives)]


@dataclass(frozen=True)
class TextReader:
    """Tokenises; `max_length` counts special tokens."""

    tokenizer: Any
    max_length: int

    def inner(self, text: str) -> Tensor:
        """(n,) ids of the whole text without special tokens."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def framed(self, tokens: Tensor) -> Tensor:
        """(n,) -> (n + 2,)."""
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        return add_special_tokens(tokens[: self.max_length - 2], start=start, end=end)

    def document(self, row: Row) -> dict[str, Tensor]:
        """Title and text of a row, for inference."""
        text = read_text(row)
        return {"text": self.framed(self.inner(f"{row['title']} {text}" if row.get("title") else text))}


@dataclass(frozen=True)
class CropPair(TextReader):
    """Two views of one document (paper, section 3.1)."""

    crops: Crops

    def _augment(self, tokens: Tensor, rng: np.random.Generator) -> Tensor:
        kind, p = self.crops.augmentation, self.crops.probability
        if kind == "shuffle":
            return shuffle_tokens(tokens, *draw_shuffle(rng, len(tokens), probability=p))
        if kind == "none":
            return tokens
        uniforms = rng.random(len(tokens))
        if kind == "delete":
            return delete_tokens(tokens, uniforms, probability=p)
        if kind == "mask":
            return mask_tokens(tokens, uniforms, probability=p, mask_id=self.tokenizer.mask_token_id)
        others = rng.integers(0, len(self.tokenizer), len(tokens))
        return replace_tokens(tokens, uniforms, others, probability=p)

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Tensor]:
        """`query` and `key`: ids with special tokens."""
        tokens = self.inner(read_text(row))
        if len(tokens) < 2:
            raise BadRow("fewer than two tokens: nothing to crop")
        if len(tokens) > self.crops.chunk:
            start = int(rng.integers(0, len(tokens) - self.crops.chunk + 1))
            tokens = random_crop(tokens, length=self.crops.chunk, start=start)
        length, start = draw_crop(rng, len(tokens), ratio=self.crops.ratio)
        if self.crops.pair == "cloze":
            keep = bool(rng.random() < self.crops.keep)
            query, key = inverse_cloze(tokens, length=length, start=start, keep=keep)
        else:
            query = random_crop(tokens, length=length, start=start)
            length, start = draw_crop(rng, len(tokens), ratio=self.crops.ratio)
            key = random_crop(tokens, length=length, start=start)
        return {"query": self.framed(self._augment(query, rng)), "key": self.framed(self._augment(key, rng))}


@dataclass(frozen=True)
class LabelledPair(TextReader):
    """A query, its passage and drawn negatives."""

    labelled: Labelled

    def _ids(self, text: str) -> Tensor:
        return self.framed(self.inner(normalise_text(text) if self.labelled.clean else text))

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """`query`, `key` and the list `negatives`."""
        positive = _texts(row, "positive")
        if not positive:
            raise BadRow("column 'positive' holds no text")
        chosen = [positive[int(rng.integers(0, len(positive)))]]
        if self.labelled.negatives:
            chosen += choose_negatives(rng, _texts(row, "negative"), _texts(row, "hard_negative"), self.labelled)
        key, *negatives = [self._ids(text) for text in chosen]
        sample: dict[str, Any] = {"query": self._ids(read_text(row, "query")), "key": key}
        return {**sample, "negatives": negatives} if negatives else sample


def _texts(row: Row, column: str) -> list[str]:
    value = row.get(column) or []
    return [text for text in ([value] if isinstance(value, str) else value) if text]
