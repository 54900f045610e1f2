"""Views of a picture: random crops with colour distortion for training, a plain resize for inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import Row
from counterpoint.views import pixels

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "MultiCrop", "OneView", "Resize", "TwoViews"]

Triple = tuple[float, float, float]
Range = tuple[float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

_BOX = 2 * pixels.ATTEMPTS + 2
"""Uniform numbers that decide where a crop lies; 14 more decide what happens to it. All are always drawn."""


def _check_range(name: str, values: Range) -> None:
    if not 0 < values[0] <= values[1]:
        raise ValueError(f"{name} must be (low, high) with 0 < low <= high; got {values}")


def _check_crop(size_name: str, size: int, scale_name: str, scale: Range) -> None:
    if size < 1:
        raise ValueError(f"{size_name} must be at least 1 pixel; got {size}")
    _check_range(scale_name, scale)
    if scale[1] > 1:
        raise ValueError(f"{scale_name} are shares of the picture's area, at most 1; got {scale}")


def _check_normalisation(mean: Triple, std: Triple) -> None:
    if len(mean) != 3 or len(std) != 3 or any(value <= 0 for value in std):
        raise ValueError(f"mean and std must have three values, std above 0; got {mean} and {std}")


@dataclass(frozen=True)
class _Distortion:
    """What happens to a crop after it was cut: flip, colour jitter, greyscale, blur, normalisation, in this order.

    Attributes:
        flip: probability of mirroring left to right.
        jitter: strengths of brightness, contrast, saturation (factor drawn from [max(0, 1 - s), 1 + s]) and hue
            (shift drawn from [-s, s] of a full circle); applied in random order.
        jitter_probability: probability of the colour jitter.
        grey: probability of greyscale.
        blur: probability of a Gaussian blur.
        blur_radius: range of its standard deviation, in pixels.
        rotation: largest angle in degrees, drawn from [-rotation, rotation]; the corners become white.
        ratio: range of width / height of a crop, drawn on a log scale.
        bicubic: interpolate bicubically instead of bilinearly.
        mean, std: per-channel normalisation of values in [0, 1].
    """

    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    jitter_probability: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    blur_radius: Range = (0.1, 2.0)
    ratio: Range = (3 / 4, 4 / 3)
    rotation: float = 0.0
    bicubic: bool = False
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("flip", "jitter_probability", "grey", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, in [0, 1]; got {getattr(self, name)!r}")
        if any(strength < 0 for strength in self.jitter) or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be four strengths >= 0, the last (hue) at most 0.5; got {self.jitter}")
        _check_range("blur_radius", self.blur_radius)
        _check_range("ratio", self.ratio)
        _check_normalisation(self.mean, self.std)

    def _colour(self, image: Tensor, drawn: np.ndarray) -> Tensor:
        """Jitter with drawn numbers (8,) in [0, 1): four strengths, four keys whose order is the order applied."""
        operations = (
            pixels.adjust_brightness,
            pixels.adjust_contrast,
            pixels.adjust_saturation,
            pixels.adjust_hue,
        )
        for which in np.argsort(drawn[4:8]):
            strength = self.jitter[which]
            if strength == 0:
                continue
            low, high = (-strength, strength) if which == 3 else (max(0.0, 1.0 - strength), 1.0 + strength)
            image = operations[which](image, low + (high - low) * float(drawn[which]))
        return image

    def _finish(self, cut: Tensor, drawn: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Everything after the cut, from (3, size, size) uint8 and drawn numbers (14,) in [0, 1); new, or in `out`."""
        image = out = pixels.to_float(cut, flip=bool(drawn[0] < self.flip), out=out)
        if self.rotation:
            image = pixels.rotate(image, self.rotation * (2 * float(drawn[5]) - 1))
        if drawn[1] < self.jitter_probability:
            image = self._colour(image, drawn[6:14])
        if drawn[2] < self.grey:
            image = pixels.to_grey(image)  # (1, size, size)
        if drawn[3] < self.blur:
            low, high = self.blur_radius
            image = pixels.blur(image, low + (high - low) * float(drawn[4]))
        return pixels.normalise(image, self.mean, self.std, out=out)

    def _box(self, picture: Tensor, scale: Range, drawn: np.ndarray) -> pixels.Box:
        """Where one random resized crop lies in (3, H, W), from drawn numbers (22,) in [0, 1)."""
        areas, shapes = drawn[: 2 * pixels.ATTEMPTS].reshape(2, pixels.ATTEMPTS)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        return pixels.crop_box(
            picture.shape[2],
            picture.shape[1],
            areas=(scale[0] + (scale[1] - scale[0]) * areas).tolist(),
            ratios=np.exp(low + (high - low) * shapes).tolist(),
            place=(float(drawn[-2]), float(drawn[-1])),
            limits=self.ratio,
        )

    def _crops(self, row: Row, rng: np.random.Generator, plan: list[tuple[int, int, Range]]) -> list[Tensor]:
        """Cut every (count, size, scale) of the plan out of the row's picture, distorted: (count, 3, size, size)."""
        places = [(size, scale) for count, size, scale in plan for _ in range(count)]
        drawn = rng.random((len(places), _BOX + 14))
        picture, boxes = self._placed(row, places, drawn)
        crops = [torch.empty(count, 3, size, size) for count, size, _ in plan]
        targets = [crop for group in crops for crop in group]
        with torch.inference_mode():  # spares every operation its bookkeeping; the crops are tensors from outside of it
            cuts = [
                pixels.resize_box(picture, box, size, bicubic=self.bicubic)
                for (size, _), box in zip(places, boxes, strict=True)
            ]
            for cut, numbers, target in zip(cuts, drawn, targets, strict=True):
                self._finish(cut, numbers[_BOX:], target)
        return crops

    def _placed(self, row: Row, plan: list[tuple[int, Range]], drawn: np.ndarray) -> tuple[Tensor, list[pixels.Box]]:
        """Picture (3, H, W) uint8 and where in it every (size, scale) of the plan lies, from (len(plan), >= 22)."""
        # A large JPEG is decoded at a fraction of its size that still has a pixel for each that is wanted: for the
        # shapes drawn first, and again in the rare case that a later, smaller one had to be taken.
        wanted = max(
            size / math.sqrt((scale[0] + (scale[1] - scale[0]) * first) * min(self.ratio[0], 1 / self.ratio[1]))
            for (size, scale), first in zip(plan, drawn[:, 0].tolist(), strict=True)
        )
        picture, boxes, needed = self._decoded(row, math.ceil(wanted), plan, drawn)
        if needed > min(picture.shape[1:]) >= wanted:
            picture, boxes, _ = self._decoded(row, math.ceil(needed), plan, drawn)
        return picture, boxes

    def _decoded(
        self, row: Row, side: int, plan: list[tuple[int, Range]], drawn: np.ndarray
    ) -> tuple[Tensor, list[pixels.Box], float]:
        """Picture (3, H, W) uint8, the boxes to cut, and the shorter side that gives every box its size in pixels."""
        picture = pixels.read(row["image"], smallest_side=side)
        boxes = [self._box(picture, scale, numbers[:_BOX]) for (_, scale), numbers in zip(plan, drawn, strict=True)]
        shortest = min(picture.shape[1:])
        needed = max(
            size * shortest / min(right - left, bottom - top)
            for (size, _), (left, top, right, bottom) in zip(plan, boxes, strict=True)
        )
        return picture, boxes, needed


@dataclass(frozen=True)
class MultiCrop(_Distortion):
    """SwAV's multi-crop (arXiv 2006.09882, section 3.3): a few large crops and more small ones.

    Attributes:
        sizes: side of the crops of each resolution, in pixels.
        counts: number of crops of each resolution.
        scales: share of the image's area that a crop of each resolution covers.

    Returns of a call: {"crops0": (counts[0], 3, sizes[0], sizes[0]), "crops1": ...}, float32, normalised.
    """

    sizes: tuple[int, ...] = (224, 96)
    counts: tuple[int, ...] = (2, 6)
    scales: tuple[Range, ...] = ((0.14, 1.0), (0.05, 0.14))
    std: Triple = (0.228, 0.224, 0.225)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.sizes) == len(self.counts) == len(self.scales):
            raise ValueError(
                "sizes, counts and scales must have one entry a resolution; "
                f"got {len(self.sizes)}, {len(self.counts)} and {len(self.scales)}"
            )
        if any(count < 1 for count in self.counts) or not self.counts:
            raise ValueError(f"counts must be at least 1 for every resolution; got {self.counts}")
        for size, scale in zip(self.sizes, self.scales, strict=True):
            _check_crop("sizes", size, "scales", scale)

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> all its crops, stacked by resolution."""
        crops = self._crops(row, rng, list(zip(self.counts, self.sizes, self.scales, strict=True)))
        return {f"crops{index}": group for index, group in enumerate(crops)}


@dataclass(frozen=True)
class TwoViews(_Distortion):
    """Two independently drawn views of a picture; the defaults are SimCLR's (arXiv 2002.05709, appendix A)."""

    size: int = 224
    scale: Range = (0.08, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_crop("size", self.size, "scale", self.scale)

    @classmethod
    def simclr(cls, size: int = 224) -> TwoViews:
        """SimCLR: strong colour distortion, crops from 8 % of the area."""
        return cls(size=size)

    @classmethod
    def moco(cls, size: int = 224) -> TwoViews:
        """MoCo v2 (arXiv 2003.04297): half the colour distortion, crops from 20 % of the area."""
        return cls(size=size, scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1))

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"first": (3, size, size), "second": (3, size, size)}."""
        first, second = self._crops(row, rng, [(1, self.size, self.scale)] * 2)
        return {"first": first[0], "second": second[0]}


@dataclass(frozen=True)
class OneView(_Distortion):
    """One lightly cropped view, as CLIP-style training uses."""

    size: int = 224
    scale: Range = (0.9, 1.0)
    flip: float = 0.0
    jitter_probability: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    bicubic: bool = True
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_crop("size", self.size, "scale", self.scale)

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"image": (3, size, size)}."""
        return {"image": self._crops(row, rng, [(1, self.size, self.scale)])[0][0]}


@dataclass(frozen=True)
class Resize:
    """Inference: no randomness.

    Attributes:
        size: side of the result, in pixels.
        mean, std: per-channel normalisation of values in [0, 1].
        crop: "centre" cuts the largest centred square; "squash" takes the whole picture and changes its shape.
        bicubic: interpolate bicubically instead of bilinearly.
    """

    size: int = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    crop: str = "centre"
    bicubic: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel; got {self.size}")
        if self.crop not in ("centre", "squash"):
            raise ValueError(f"crop must be 'centre' or 'squash'; got {self.crop!r}")
        _check_normalisation(self.mean, self.std)

    def __call__(self, row: Row, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One row -> {"image": (3, size, size)}; `rng` is not used."""
        picture = pixels.read(row["image"], smallest_side=self.size)  # (3, H, W)
        height, width = picture.shape[1:]
        box: pixels.Box = (0, 0, width, height)
        if self.crop == "centre":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
        resized = pixels.resize_box(picture, box, self.size, bicubic=self.bicubic)
        return {"image": pixels.normalise(pixels.to_float(resized), self.mean, self.std)}
