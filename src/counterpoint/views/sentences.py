"""Pairs of sentences whose lengths differ."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.views.text import (
    draw_repetition,
    draw_word_repetition,
    pad_tokens,
    read_text,
    repeat_tokens,
    repeat_words,
)

if TYPE_CHECKING:
    from counterpoint.data import Row

__all__ = ["SentencePair", "collate_sentences"]


@dataclass(frozen=True)
class SentencePair:
    """A sentence's ids and those of its copy, in which some (sub-)words stand twice (ESimCSE, section 3).

    Attributes:
        tokenizer: as `transformers` has them.
        max_length: ids of a sentence, special tokens included; repeated ones come on top.
        repetition: bound of the share of units that are repeated; 0 gives two equal sentences.
        unit: "bpe" repeats ids, "word" words before tokenising.
        redraw: draw anew at every visit; False draws from the row's id alone.
    """

    tokenizer: Any
    max_length: int
    repetition: float = 0.0
    unit: str = "bpe"
    redraw: bool = True

    def ids(self, text: str) -> Tensor:
        """(n,) ids with special tokens, cut to `max_length`."""
        return torch.tensor(self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"])

    def sentence(self, row: Row) -> dict[str, list[Tensor]]:
        """The sentence alone, for inference."""
        return {"sentences": [self.ids(read_text(row))]}

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, list[Tensor]]:
        """The pair; anchor first, never altered."""
        text = read_text(row)
        ids = copy = self.ids(text)
        if not self.redraw:
            rng = np.random.default_rng(zlib.crc32(str(row["id"]).encode()))
        if self.repetition > 0 and self.unit == "word":
            words = len(text.split())
            copy = self.ids(repeat_words(text, draw_word_repetition(rng, words, rate=self.repetition)))
        elif self.repetition > 0:
            places = draw_repetition(rng, len(ids), rate=self.repetition)
            room = max(0, self.tokenizer.model_max_length - len(ids))  # positions that the encoder has left
            copy = repeat_tokens(ids, places[:room])
        return {"sentences": [ids, copy]}


def collate_sentences(samples: Sequence[Mapping[str, Any]], *, pad_id: int) -> dict[str, Tensor]:
    """ids and mask (B, V, L): the V views of all sentences are padded to the longest of the batch."""
    views = len(samples[0]["sentences"])
    ids, mask = pad_tokens([ids for sample in samples for ids in sample["sentences"]], pad_id=pad_id)
    return {"input_ids": ids.unflatten(0, (-1, views)), "attention_mask": mask.unflatten(0, (-1, views))}
