"""Pictures with masks: both are cut, enlarged and mirrored alike; the picture's colours are distorted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoint.data import BadRow, Row, Rows
from counterpoint.data.images import IGNORED, decode, decode_mask
from counterpoint.views import pixels
from counterpoint.views.image import CLIP_MEAN, CLIP_STD

__all__ = ["SegmentedView", "check_class_names", "picture_with_mask"]


def picture_with_mask(row: Row, classes: int | None = None) -> tuple[Tensor, Tensor]:
    """A row's picture (3, H, W) uint8 and its mask (H, W) int64.

    Args:
        row: with `image`, and `mask`: a picture of class numbers, 255 where nothing counts.
        classes: numbers from here on are refused; None takes any.

    Raises:
        BadRow: either cannot be decoded, their sizes differ, or the mask holds a number that is no class.
        KeyError: the row lacks a column.
    """
    image, value = row["image"], row["mask"]
    if value is None:
        raise BadRow("it has no mask")
    picture, mask = pixels.to_bytes(decode(image)), torch.from_numpy(decode_mask(value))
    if picture.shape[1:] != mask.shape:
        sizes = f"{picture.shape[2]} x {picture.shape[1]} and {mask.shape[1]} x {mask.shape[0]}"
        raise BadRow(f"picture and mask differ in size: {sizes} pixels")
    if classes is not None and bool((wrong := (mask != IGNORED) & ((mask < 0) | (mask >= classes))).any()):
        raise BadRow(f"its mask holds {int(mask[wrong][0])}; classes are 0 to {classes - 1}, and {IGNORED} is ignored")
    return picture, mask


def check_class_names(rows: Rows, names: tuple[str, ...]) -> None:
    """The masks of the rows mean these classes; warns where the rows do not say what their numbers mean.

    Raises:
        ValueError: the rows name their classes otherwise.
    """
    if rows.class_names is None:
        told = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        warnings.warn(f"the masks of {rows.name} name no classes; read as {told} (--classes)", stacklevel=3)
    elif tuple(rows.class_names) != names:
        own, found = ", ".join(names), ", ".join(rows.class_names)
        raise ValueError(f"classes are {own}, but those of {rows.name} are {found}: give them with --classes")


@dataclass(frozen=True)
class SegmentedView:
    """A random square of a picture with its mask, as segmentation networks are trained with (DenseCLIP's for ADE20K).

    The picture is resized so that its shorter side is `size` times a drawn factor, and a square of `size` is cut; where
    the picture is smaller, the rest has the mean colour and is ignored.

    Attributes:
        size: side of the square, in pixels.
        resize: range of the factor, drawn uniformly.
        flip: probability of mirroring left to right.
        jitter: strengths of brightness, contrast, saturation (factor drawn from [1 - s, 1 + s]) and hue (shift drawn
            from [-s, s] of a full circle), applied in this order.
        jitter_probability: of each of the four by itself.
        mean, std: per-channel normalisation of values in [0, 1].
        classes: masks with a number from here on are refused; None takes any.

    Returns of a call: {"image": (3, size, size) float32, "mask": (size, size) int64, 255 where nothing counts}.
    """

    size: int = 512
    resize: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.125, 0.5, 0.5, 0.1)
    jitter_probability: float = 0.5
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel; got {self.size}")
        if not 0 < self.resize[0] <= self.resize[1]:
            raise ValueError(f"resize must be (low, high) with 0 < low <= high; got {self.resize}")
        for name in ("flip", "jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)!r}")
        if not all(0 <= strength <= 1 for strength in self.jitter) or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be four strengths in [0, 1], the last (hue) at most 0.5; got {self.jitter}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> its square and the mask of that square."""
        picture, mask = picture_with_mask(row, self.classes)
        drawn = rng.random(12)
        cut, cut_mask = self._square(picture, mask, drawn[:3])
        flip = bool(drawn[3] < self.flip)
        image = pixels.normalise(self._colours(pixels.to_float(cut, flip=flip), drawn[4:]), self.mean, self.std)
        missing = (0, self.size - image.shape[2], 0, self.size - image.shape[1])
        return {
            "image": F.pad(image, missing),
            "mask": F.pad(cut_mask.flip(1) if flip else cut_mask, missing, value=IGNORED),
        }

    def _square(self, picture: Tensor, mask: Tensor, drawn: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is cut out of both, (3, h, w) and (h, w) with sides of at most `size`."""
        height, width = mask.shape
        scale = self.size * (self.resize[0] + (self.resize[1] - self.resize[0]) * drawn[0]) / min(height, width)
        (top, bottom, rows), (left, right, columns) = (
            self._span(side, float(scale), float(place)) for side, place in ((height, drawn[1]), (width, drawn[2]))
        )
        cut = F.interpolate(
            picture[None, :, top:bottom, left:right], size=(rows, columns), mode="bilinear", antialias=True
        )[0]
        down = top + ((torch.arange(rows) + 0.5) * (bottom - top) / rows).long()
        across = left + ((torch.arange(columns) + 0.5) * (right - left) / columns).long()
        return cut, mask[down[:, None], across]

    def _span(self, side: int, scale: float, place: float) -> tuple[int, int, int]:
        """First and last pixel along one side of the picture, and the pixels they become."""
        whole = max(1, round(side * scale))
        length = min(self.size, whole)
        start = int(place * (whole - length + 1))
        first = min(start * side // whole, side - 1)  # whole numbers: a quotient may fall just below its true value
        return first, max(first + 1, (2 * (start + length) * side + whole) // (2 * whole)), length

    def _colours(self, image: Tensor, drawn: np.ndarray) -> Tensor:
        """(3, h, w) in [0, 1] with colours distorted by drawn numbers (8,): whether, and how much, for each of four."""
        steps = (pixels.adjust_brightness, pixels.adjust_contrast, pixels.adjust_saturation, pixels.adjust_hue)
        for number, (step, strength) in enumerate(zip(steps, self.jitter, strict=True)):
            if strength and drawn[2 * number] < self.jitter_probability:
                shift = strength * (2 * float(drawn[2 * number + 1]) - 1)
                image = step(image, shift if number == 3 else 1 + shift)
        return image
