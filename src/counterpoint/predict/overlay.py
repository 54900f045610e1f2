"""Class numbers laid over a picture as colours."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

__all__ = ["BACKGROUNDS", "class_colours", "overlay"]

BACKGROUNDS = frozenset({"background", "unlabelled", "unlabeled", "void", "other"})
"""Names of classes that are not coloured."""
_TURN = 0.618033988749895
"""Golden section: hues that follow each other lie far apart, however many there are."""
_OPACITY, _EDGE = 0.55, 0.35
_STRIP = 2**20
"""Pixels that are coloured at a time: large photographs would need much memory as fractions."""


def class_colours(classes: int) -> np.ndarray:
    """(K, 3) uint8, the same for a class number whatever K is; numbers near each other differ clearly."""
    colours = []
    for number in range(classes):
        strength, value = ((0.85, 0.95), (0.55, 1.0), (0.95, 0.65))[number // 3 % 3]
        colours.append(colorsys.hsv_to_rgb((0.02 + number * _TURN) % 1.0, strength, value))
    return np.round(255 * np.array(colours).reshape(-1, 3)).astype(np.uint8)


def overlay(picture: np.ndarray, labels: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
    """Picture (H, W, 3) uint8 with every class in its colour and a dark line between classes; the same shape.

    Args:
        picture: RGB.
        labels: (H, W) class numbers.
        names: of the classes; those in `BACKGROUNDS` keep the picture's own colours.

    Raises:
        ValueError: shapes that do not fit.
    """
    if picture.shape[:2] != labels.shape or picture.shape[2:] != (3,):
        raise ValueError(f"picture and labels must be (H, W, 3) and (H, W), got {picture.shape} and {labels.shape}")
    shown = np.array([name.lower() not in BACKGROUNDS for name in names or ()], dtype=bool)
    colours = class_colours(int(labels.max()) + 1)
    visible = np.ones(len(colours), dtype=bool)
    visible[: len(shown)] = shown[: len(colours)]
    result = picture.copy()
    for strip in np.array_split(np.arange(len(picture)), min(len(picture), 1 + labels.size // _STRIP)):
        rows, found = slice(strip[0], strip[-1] + 1), labels[strip]
        tinted = np.rint((1 - _OPACITY) * picture[rows] + _OPACITY * colours[found]).astype(np.uint8)
        result[rows] = np.where(visible[found][..., None], tinted, picture[rows])
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    result[edge] = np.rint(_EDGE * result[edge]).astype(np.uint8)
    return result
