"""Pictures with captions: one image view, one of the captions, and batches of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow, Row
from counterpoint.views.image import OneView, Resize

__all__ = ["Captioned", "PictureOrText", "caption_candidates", "collate_captioned"]

Tokenize = Callable[[Sequence[str]], Mapping[str, Tensor]]


def caption_candidates(row: Row) -> list[str]:
    """The captions of a row: `text` is one caption or a list of candidates (original, back-translations ...).

    Raises:
        BadRow: there is none, or something in it is no text.
        KeyError: the row has no column `text`.
    """
    found = row["text"]
    candidates = [found] if isinstance(found, str) else list(found) if isinstance(found, list | tuple) else [None]
    kept = [text for text in candidates if isinstance(text, str) and text.strip()]
    if not all(isinstance(text, str) for text in candidates):
        raise BadRow(f"its caption must be text or a list of texts, got {found!r}")
    if not kept:
        raise BadRow("its caption is empty")
    return kept


@dataclass(frozen=True)
class Captioned:
    """A random view of the picture, and one of its captions, drawn uniformly.

    Attributes:
        image: the view of the picture.
        templates: sentences with a place `{}` for the caption; one is drawn each time. Short captions (names) vary
            more that way. "{}" is the caption as it is.

    Raises:
        ValueError: a template without `{}`.
    """

    image: OneView = OneView()
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"templates must hold {{}} for the caption, got {template!r}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"image": (3, s, s), "text": str}."""
        captions = caption_candidates(row)
        drawn = captions[int(rng.integers(len(captions)))]
        if self.templates:
            drawn = self.templates[int(rng.integers(len(self.templates)))].replace("{}", drawn)
        return {**self.image(row, rng), "text": drawn}


@dataclass(frozen=True)
class PictureOrText:
    """Inference: what a row has of a picture and a text (of several candidates the first)."""

    image: Resize = Resize()

    def __call__(self, row: Row) -> dict[str, Any]:
        """One row -> {"image": (3, s, s)}, {"text": str}, or both.

        Raises:
            KeyError: the row has neither column.
        """
        sample: dict[str, Any] = {}
        if row.get("image") is not None:
            sample |= self.image(row)
        if row.get("text") is not None:
            sample["text"] = caption_candidates(row)[0]
        if not sample:
            if "image" in row or "text" in row:
                raise BadRow("it has neither a picture nor a text")
            raise KeyError("image")
        return sample


def collate_captioned(samples: Sequence[Mapping[str, Any]], tokenize: Tokenize) -> dict[str, Tensor]:
    """Samples -> {"image": (B, 3, s, s), "input_ids": (B, L), "attention_mask": (B, L)}, of what the samples have."""
    batch: dict[str, Tensor] = {}
    if "image" in samples[0]:
        batch["image"] = torch.stack([sample["image"] for sample in samples])
    if "text" in samples[0]:
        batch |= tokenize([sample["text"] for sample in samples])
    return batch
