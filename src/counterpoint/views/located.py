"""Two crops of a picture that remember where they were cut, for systems that compare places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import Row
from counterpoint.views import pixels
from counterpoint.views.image import TwoViews

__all__ = ["LocatedViews", "place_of", "solarise"]

_THRESHOLD = 128 / 255
_BOX, _REST = 2 * pixels.ATTEMPTS + 2, 14
"""Uniform numbers that decide where a crop lies, and what happens to it; one more decides whether it is solarised."""


def place_of(
    box: pixels.Box, *, width: int, height: int, flipped: bool = False, upside_down: bool = False
) -> tuple[float, float, float, float]:
    """Corners (x0, y0, x1, y1) of a crop in its picture, first and last pixel of a side at 0 and 1.

    A mirrored crop runs from right to left: its x0 and x1 change places, and x1 < x0 (arXiv 2011.10043, section 3.1;
    the convention is the official code's).

    Args:
        box: (left, top, right, bottom) in pixels, the last two exclusive.
        width, height: of the picture, in pixels.
        flipped: mirrored left to right.
        upside_down: mirrored top to bottom.
    """
    left, top, right, bottom = box
    across, down = max(width - 1, 1), max(height - 1, 1)
    x0, x1 = left / across, (right - 1) / across
    y0, y1 = top / down, (bottom - 1) / down
    if flipped:
        x0, x1 = x1, x0
    if upside_down:
        y0, y1 = y1, y0
    return x0, y0, x1, y1


def solarise(image: Tensor) -> Tensor:
    """Values of (C, H, W) in [0, 1] from 128 / 255 on are inverted."""
    return torch.where(image >= _THRESHOLD, 1.0 - image, image)


@dataclass(frozen=True)
class LocatedViews(TwoViews):
    """Two views of a picture and where each lies; the defaults are BYOL's two distortions as PixPro uses them.

    `blur` is the first view's alone.

    Attributes:
        second_blur: probability of a Gaussian blur of the second view.
        second_solarise: probability of inverting the bright half of the second view's values.

    Returns of a call: {"first": (3, size, size), "second": likewise, "first_place": (4,), "second_place": (4,)}; places
    as `place_of` gives them.
    """

    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    blur: float = 1.0
    second_blur: float = 0.1
    second_solarise: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("second_blur", "second_solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)!r}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> two views and their places."""
        drawn = rng.random((2, _BOX + _REST + 1))
        picture, boxes = self._placed(row, [(self.size, self.scale)] * 2, drawn)
        height, width = picture.shape[1:]
        plain = replace(self, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        distortions = (plain, replace(plain, blur=self.second_blur))
        sample: dict[str, Any] = {}
        for name, box, numbers, distortion in zip(("first", "second"), boxes, drawn, distortions, strict=True):
            cut = pixels.resize_box(picture, box, self.size, bicubic=self.bicubic)
            view = distortion._finish(cut, numbers[_BOX:])  # (3, size, size) in [0, 1]
            if name == "second" and numbers[-1] < self.second_solarise:
                view = solarise(view)
            sample[name] = pixels.normalise(view, self.mean, self.std)
            flipped = bool(numbers[_BOX] < self.flip)  # the number that `_finish` mirrors by
            sample[f"{name}_place"] = torch.tensor(place_of(box, width=width, height=height, flipped=flipped))
        return sample
