"""Views of a picture: random crops with colour distortion for training, a plain resize for inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import Row
from counterpoint.data.images import decode
from counterpoint.views import pixels

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "MultiCrop", "OneView", "Resize", "TwoViews"]

Triple = tuple[float, float, float]
Range = tuple[float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

_NUMBERS = 2 * pixels.ATTEMPTS + 16
"""Uniform numbers that one crop consumes, whatever is decided with them: draws never depend on earlier outcomes."""


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

    def _finish(self, cut: Tensor, drawn: np.ndarray) -> Tensor:
        """Everything after the cut, from (3, size, size) uint8 and drawn numbers (14,) in [0, 1)."""
        image = pixels.to_float(cut, flip=bool(drawn[0] < self.flip))
        if self.rotation:
            image = pixels.rotate(image, self.rotation * (2 * float(drawn[5]) - 1))
        if drawn[1] < self.jitter_probability:
            image = self._colour(image, drawn[6:14])
        if drawn[2] < self.grey:
            image = pixels.to_grey(image)  # (1, size, size)
        if drawn[3] < self.blur:
            low, high = self.blur_radius
            image = pixels.blur(image, low + (high - low) * float(drawn[4]))
        return pixels.normalise(image, self.mean, self.std)

    def _cut(self, picture: Tensor, size: int, scale: Range, drawn: np.ndarray) -> Tensor:
        """One random resized crop of (3, H, W) uint8, distorted: (3, size, size)."""
        shapes = drawn[: 2 * pixels.ATTEMPTS].reshape(2, pixels.ATTEMPTS)
        areas = scale[0] + (scale[1] - scale[0]) * shapes[0]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        rest = drawn[2 * pixels.ATTEMPTS :]
        box = pixels.crop_box(
            picture.shape[2],
            picture.shape[1],
            areas=areas.tolist(),
            ratios=np.exp(low + (high - low) * shapes[1]).tolist(),
            place=(float(rest[0]), float(rest[1])),
            limits=self.ratio,
        )
        return self._finish(pixels.resize_box(picture, box, size, bicubic=self.bicubic), rest[2:])

    def _crops(self, row: Row, rng: np.random.Generator, plan: list[tuple[int, Range]]) -> list[Tensor]:
        """Cut every (size, scale) of the plan out of the row's picture, decoded once."""
        drawn = rng.random((len(plan), _NUMBERS))
        picture = pixels.to_bytes(decode(row["image"], smallest_side=self._needed(plan, drawn)))
        return [
            self._cut(picture, size, scale, numbers)
            for (size, scale), numbers in zip(plan, drawn, strict=True)
        ]

    def _needed(self, plan: list[tuple[int, Range]], drawn: np.ndarray) -> int:
        """Smallest side at which no crop of this plan has fewer pixels than it is resized to."""
        sides = []
        for (size, scale), numbers in zip(plan, drawn, strict=True):
            area = scale[0] + (scale[1] - scale[0]) * float(numbers[0])
            sides.append(size / math.sqrt(area * min(self.ratio[0], 1 / self.ratio[1])))
        return math.ceil(max(sides))


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

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> all its crops, stacked by resolution."""
        plan = [
            (size, scale)
            for size, count, scale in zip(self.sizes, self.counts, self.scales, strict=True)
            for _ in range(count)
        ]
        crops = self._crops(row, rng, plan)
        views, first = {}, 0
        for index, count in enumerate(self.counts):
            views[f"crops{index}"] = torch.stack(crops[first : first + count])
            first += count
        return views


@dataclass(frozen=True)
class TwoViews(_Distortion):
    """Two independently drawn views of a picture; the defaults are SimCLR's (arXiv 2002.05709, appendix A)."""

    size: int = 224
    scale: Range = (0.08, 1.0)

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
        first, second = self._crops(row, rng, [(self.size, self.scale)] * 2)
        return {"first": first, "second": second}


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

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"image": (3, size, size)}."""
        return {"image": self._crops(row, rng, [(self.size, self.scale)])[0]}


@dataclass(frozen=True)
class Resize:
    """Inference: the whole picture or its centre, without randomness."""

    size: int = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    crop: str = "centre"
    bicubic: bool = True

    def __call__(self, row: Row, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One row -> {"image": (3, size, size)}; `rng` is not used."""
        picture = pixels.to_bytes(decode(row["image"], smallest_side=self.size))  # (3, H, W)
        height, width = picture.shape[1:]
        box: pixels.Box = (0, 0, width, height)
        if self.crop == "centre":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
        resized = pixels.resize_box(picture, box, self.size, bicubic=self.bicubic)
        return {"image": pixels.normalise(pixels.to_float(resized), self.mean, self.std)}
