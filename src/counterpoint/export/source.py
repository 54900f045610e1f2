"""What is exported: the encoder of a run, its towers, and real inputs to compare on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow, Rows, open_rows, open_sources
from counterpoint.encoders.base import Encoder
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.text import TextEncoder
from counterpoint.run import Run, load
from counterpoint.views.image import Resize

__all__ = ["Encode", "Source", "Tower", "open_source"]

Encode = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs of a tower -> (N, D)."""

SENTENCES = (
    "A red door in a white wall.",
    "The committee postponed its decision until autumn.",
    "Two dogs run along the beach.",
    "Heavy rain is expected in the north, with gusts of up to 90 km/h.",
    "green apple",
    "How do I reset the password of my account?",
    "The enzyme binds the substrate at two sites.",
    "She bought bread, cheese and a bottle of water.",
    "Der Zug nach Hamburg hat zwanzig Minuten Verspätung.",
    "smiling face with sunglasses",
    "Profits rose by 4 percent in the third quarter.",
    "An old map of the harbour hangs above the desk.",
    "The goalkeeper saved a penalty in the last minute.",
    "It is not known who wrote the letter, or when, or why it was never sent to the person it was meant for.",
    "chess pawn",
    "Add the flour slowly, and stir until no lumps are left.",
)
"""Texts to compare on when the run's own are not at hand."""


@dataclass(frozen=True)
class Tower:
    """One side of the encoder.

    Attributes:
        encode: our own computation, (N, D), not normalised.
        inputs: real inputs: `images` (N, 3, s, s), or `input_ids` and `attention_mask` (N, L).
    """

    encode: Encode
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """A run that is exported.

    Attributes:
        run: where it lies.
        system: the loaded system.
        encoder: the encoder that is exported: the first of the system.
        towers: "image", "text" or both.
        texts: the texts behind the inputs of the text tower.
        size, mean, std: of the pictures; the system's own inference preprocessing.
        compared_on: where the inputs come from, in words.
    """

    run: Run
    system: Any
    encoder: Encoder
    towers: dict[str, Tower]
    texts: list[str]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    compared_on: str


def open_source(run: Run, data: Any, samples: int) -> Source:
    """Load a run and gather inputs for its towers.

    Raises:
        ValueError: the system has no encoder that can be exported, or `data` was given and cannot be used.
    """
    system = load(run)
    encoder = next((module for module in system.modules() if isinstance(module, Encoder)), None)
    if encoder is None:
        raise ValueError(f"{run.system_name} is built of no encoder: there is nothing that other libraries could load")
    rows, words = _rows(run, data)
    towers: dict[str, Tower] = {}
    resize = _resize(system, encoder)
    if isinstance(encoder, ImageEncoder | ClipEncoder):
        images, note = _images(rows, resize, samples, strict=data is not None)
        encode = encoder.encode_image if isinstance(encoder, ClipEncoder) else encoder
        towers["image"] = Tower(lambda inputs: encode(inputs["images"]), {"images": images})
        words = note or words
    texts: list[str] = []
    if isinstance(encoder, TextEncoder | ClipEncoder):
        texts = _texts(rows, samples)
        texts = texts if len(texts) >= 2 else list(SENTENCES[: max(samples, 2)])
        encode_text = encoder.encode_text if isinstance(encoder, ClipEncoder) else encoder
        towers["text"] = Tower(encode_text, encoder.tokenize(texts))
    return Source(run, system, encoder, towers, texts, resize.size, resize.mean, resize.std, words)


def _rows(run: Run, data: Any) -> tuple[Rows | None, str]:
    """The rows that are given, else the run's own; None when these are gone."""
    columns = run.config.get("columns") or None
    if data is not None:
        rows = open_rows(data)
        return rows, rows.name
    named = [str(name) for name in run.config.get("data") or []]
    try:
        rows = open_rows(named[0], columns=columns) if len(named) == 1 else open_sources(named, columns=columns)
    except (ValueError, OSError):
        return None, "built-in samples (the run's own data are not at hand)"
    return rows, rows.name


def _resize(system: Any, encoder: Encoder) -> Resize:
    """The inference preprocessing of pictures: the system's own, else what the encoder asks for."""
    try:
        found = system.preprocess()
    except NotImplementedError:
        found = None
    parts = [found]
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        parts += [getattr(found, field.name) for field in dataclasses.fields(found)]
    resize = next((part for part in parts if isinstance(part, Resize)), None)
    if resize is not None:
        return resize
    if isinstance(encoder, ImageEncoder | ClipEncoder):
        return Resize(encoder.size, encoder.mean, encoder.std)
    return Resize()


def _images(rows: Rows | None, resize: Resize, count: int, *, strict: bool) -> tuple[Tensor, str]:
    """(N, 3, s, s), and where they come from when they are not the rows'."""
    if rows is not None and "image" in rows.columns:
        found = _sized(rows, resize, count)
        if len(found) >= 2:
            return torch.stack(found), ""
    if strict:
        raise ValueError("data must have at least 2 usable pictures in the column 'image'")
    builtin = open_rows("digits")
    return torch.stack(_sized(builtin, resize, count)), "built-in digits (the run's own pictures are not at hand)"


def _sized(rows: Rows, resize: Resize, count: int) -> list[Tensor]:
    found = []
    for place in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int):
        try:
            found.append(resize(rows[int(place)])["image"])
        except BadRow:  # the next one will do: these are only samples
            continue
    return found


def _texts(rows: Rows | None, count: int) -> list[str]:
    if rows is None or "text" not in rows.columns:
        return []
    found = []
    for place in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int):
        try:
            text: Any = rows[int(place)].get("text")
        except BadRow:
            continue
        text = text[0] if isinstance(text, Sequence) and not isinstance(text, str) and text else text
        if isinstance(text, str) and text.strip():
            found.append(text)
    return found
