"""Views of a whole photograph for networks that edit it: flips, turns and zooms, without touching its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoint.data import BadRow, Row
from counterpoint.data.images import decode
from counterpoint.views import pixels
from counterpoint.views.image import Resize

__all__ = ["SOURCES", "LitPhotograph", "Photograph", "is_well_lit", "turned_and_zoomed"]

SOURCES = ("backlit", "welllit")
"""Values of the column `source`."""


def turned_and_zoomed(image: Tensor, *, degrees: float, zoom: float) -> Tensor:
    """(3, S, S) turned anticlockwise about its centre and enlarged by `zoom`; what lies outside is mirrored in."""
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    turn = torch.tensor([[[cosine, -sine, 0.0], [sine, cosine, 0.0]]])
    grid = F.affine_grid(turn, [1, *image.shape], align_corners=False)
    found = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    return found.clamp_(0.0, 1.0)


@dataclass(frozen=True)
class Photograph:
    """The whole picture as a square, its values in [0, 1] and not normalised (CLIP-LIT's augmentation).

    Attributes:
        size: side of the result, in pixels; the picture's shape is changed, nothing is cut off.
        flip: probability of mirroring left to right, and likewise of mirroring top to bottom.
        transpose: probability of exchanging rows and columns.
        zoom: range of the enlargement; below 1 the picture gets smaller and its mirror image surrounds it.
        zoom_probability: probability of a zoom.
        degrees: largest angle of a turn.
        turn_probability: probability of a turn.

    Returns of a call: {"image": (3, size, size)}, float32.
    """

    size: int = 512
    flip: float = 0.5
    transpose: float = 0.5
    zoom: tuple[float, float] = (0.5, 1.5)
    zoom_probability: float = 0.3
    degrees: float = 90.0
    turn_probability: float = 0.3

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size must be at least 2 pixels; got {self.size}")
        for name in ("flip", "transpose", "zoom_probability", "turn_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)!r}")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom must be (low, high) with 0 < low <= high; got {self.zoom}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> its view. Seven numbers are always drawn."""
        drawn = rng.random(7)
        image = self.whole(row, flip=bool(drawn[0] < self.flip))
        if drawn[1] < self.flip:
            image = image.flip(1)
        if drawn[2] < self.transpose:
            image = image.mT
        zoomed, turned = drawn[3] < self.zoom_probability, drawn[5] < self.turn_probability
        if zoomed or turned:
            zoom = self.zoom[0] + (self.zoom[1] - self.zoom[0]) * float(drawn[4]) if zoomed else 1.0
            degrees = self.degrees * (2 * float(drawn[6]) - 1) if turned else 0.0
            image = turned_and_zoomed(image, degrees=degrees, zoom=zoom)
        return {"image": image.contiguous()}

    def whole(self, row: Row, *, flip: bool = False) -> Tensor:
        """(3, size, size) without any of it, mirrored left to right if `flip`."""
        picture = pixels.to_bytes(decode(row["image"], smallest_side=self.size))  # (3, H, W)
        resized = pixels.resize_box(picture, (0, 0, picture.shape[2], picture.shape[1]), self.size)
        return pixels.to_float(resized, flip=flip)


def is_well_lit(row: Row) -> bool:
    """Whether a row's column `source` says "welllit" and not "backlit".

    Raises:
        BadRow: it says neither.
    """
    source = row.get("source")
    if source not in SOURCES:
        raise BadRow(f"source is {source!r}, not 'backlit' or 'welllit': give the data as backlit=... welllit=...")
    return bool(source == "welllit")


@dataclass(frozen=True)
class LitPhotograph:
    """A view of a picture, and its `welllit`: 1 for a well-lit picture, 0 for a backlit one."""

    view: Photograph | Resize

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> what the view gives, and {"welllit": 0 or 1}."""
        return {"welllit": int(is_well_lit(row)), **self.view(row, rng)}
