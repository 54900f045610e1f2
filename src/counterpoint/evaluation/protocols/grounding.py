"""Whether a word of the caption points at the place of its object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import BadRow
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.evaluation.embedding import inference, to_device
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task

__all__ = ["Grounding", "find_word"]

_ROWS = 64


def find_word(caption: Sequence[int], word: Sequence[int]) -> list[int]:
    """Positions in the caption's token ids of the first occurrence of a word's; empty when it is not there."""
    for start in range(len(caption) - len(word) + 1):
        if list(caption[start : start + len(word)]) == list(word):
            return list(range(start, start + len(word)))
    return []


@dataclass(frozen=True)
class Grounding(Protocol):
    """Word-patch alignment (Yao et al. 2022, arXiv 2111.07783, section 4.4), measured.

    `words` are words of the caption, `boxes` their objects' places as (left, top, right, bottom) in [0, 1]. A word hits
    when the centre of the patch most similar to it lies in its box. For models whose `encoder` is a `ClipEncoder`
    with vectors per place and per word, in a square map.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "text", "words", "boxes")

    def run(self, task: Task) -> Measured:
        """Share of words that hit; a guesser's is the share of the picture that the box covers."""
        encoder = getattr(task.system, "encoder", None)
        if not isinstance(encoder, ClipEncoder):
            raise NotApplicable("needs a model with vectors for places and words")
        rows: list[dict[str, Any]] = []
        for row in task.rows.scan():
            if not isinstance(row, BadRow) and row["words"] and row["boxes"]:
                rows.append(row)
        hits, chance = [], []
        for start in range(0, len(rows), _ROWS):
            block = rows[start : start + _ROWS]
            for row, patches, words, ids in zip(block, *_tokens(task.system, encoder, block), strict=True):
                for word, box in zip(row["words"], row["boxes"], strict=True):
                    places = find_word(ids, _word_ids(encoder, word))
                    if places:
                        hits.append(_inside(patches @ words[places].mean(dim=0), box))
                        chance.append((box[2] - box[0]) * (box[3] - box[1]))
        if not hits:
            raise NotApplicable("no word was found in its caption")
        return Measured(
            {"word_patch_hit_rate": sum(hits) / len(hits)},
            {"word_patch_hit_rate": sum(chance) / len(chance)},
            {"words": len(hits)},
        )


def _tokens(system: Any, encoder: ClipEncoder, rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Unit patches (B, N, D) and words (B, L, D) of rows, and the captions' token ids."""
    preprocess = system.preprocess()
    batch = to_device(system.collate([preprocess(row) for row in rows]), system.device)
    with inference(system):
        try:
            patches, (words, _) = encoder.image_tokens(batch["image"]), encoder.text_tokens(batch)
        except ValueError as error:
            raise NotApplicable(str(error)) from error
    return normalize(patches, dim=2).cpu(), normalize(words, dim=2).cpu(), batch["input_ids"].tolist()


def _word_ids(encoder: ClipEncoder, word: str) -> list[int]:
    """Token ids of a word without the marks of start and end."""
    tokens = encoder.tokenize([word])
    return tokens["input_ids"][0][tokens["attention_mask"][0].bool()][1:-1].tolist()


def _inside(similarity: Tensor, box: Sequence[float]) -> bool:
    """Whether the centre of the best of N places, row by row of a square map, lies in the box."""
    side = round(len(similarity) ** 0.5)
    if side * side != len(similarity):
        raise NotApplicable(f"{len(similarity)} places form no square map")
    row, column = divmod(int(torch.argmax(similarity)), side)
    across, down = (column + 0.5) / side, (row + 0.5) / side
    return bool(box[0] <= across < box[2] and box[1] <= down < box[3])
