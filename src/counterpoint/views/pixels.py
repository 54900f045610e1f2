"""Pixel operations: pure functions of a picture and of numbers that were drawn elsewhere.

Cutting and resizing happen in Pillow on bytes. Colours and blur work on a float32 tensor (3, H, W) in [0, 1] in place, with
the definitions of `torchvision.transforms.v2.functional`. All are elementwise, and the one mean is taken by NumPy: the
result never depends on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "blur",
    "crop_box",
    "normalise",
    "resize_box",
    "rotate",
    "to_grey",
    "to_tensor",
]

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the luma."""

ATTEMPTS = 10
"""How often the shape of a crop is drawn before the centre is taken."""

Box = tuple[float, float, float, float]


def crop_box(
    width: int,
    height: int,
    *,
    areas: Sequence[float],
    ratios: Sequence[float],
    place: tuple[float, float],
    limits: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """The box of a random resized crop, as torchvision's `RandomResizedCrop` finds it.

    Args:
        width, height: of the picture, in pixels.
        areas: one drawn share of the picture's area an attempt, in (0, 1].
        ratios: one drawn width / height an attempt.
        place: two numbers in [0, 1): where the box lies in the room that is left, horizontally and vertically.
        limits: of width / height, for the fallback.

    Returns:
        (left, top, right, bottom) in pixels. The first attempt that fits into the picture is used; if none does, the
        largest centred box whose shape lies within the limits.
    """
    for area, ratio in zip(areas, ratios, strict=True):
        pixels = width * height * area
        box_width = round(math.sqrt(pixels * ratio))
        box_height = round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(place[0] * (width - box_width + 1))
            top = int(place[1] * (height - box_height + 1))
            return left, top, left + box_width, top + box_height
    ratio = min(max(width / height, limits[0]), limits[1])
    box_width = min(width, max(1, round(height * ratio)))
    box_height = min(height, max(1, round(width / ratio)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def resize_box(image: Image.Image, box: Box, size: tuple[int, int], *, bicubic: bool = False) -> Image.Image:
    """Crop and resize in one pass, antialiased; `size` is (width, height)."""
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return image.resize(size, method, box=box, reducing_gap=3.0)


def rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Turn anticlockwise about the centre at the same size; the corners become white, as transparency does."""
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(255, 255, 255))


def to_tensor(image: Image.Image, *, flip: bool = False) -> Tensor:
    """RGB picture -> (3, H, W) float32 in [0, 1], mirrored left to right if `flip`."""
    pixels = np.asarray(image)  # (H, W, 3)
    if flip:
        pixels = pixels[:, ::-1]
    out = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
    np.multiply(pixels.transpose(2, 0, 1), np.float32(1 / 255), out=out)
    return torch.from_numpy(out)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(value - mean) / std for each channel, in place; one-channel pixels (1, H, W) become (3, H, W)."""
    scale = torch.tensor([1 / s for s in std]).view(3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1)
    return (pixels.mul_(scale) if len(pixels) == 3 else pixels * scale).add_(shift)


def adjust_brightness(pixels: Tensor, factor: float) -> Tensor:
    """Multiply every channel by `factor` >= 0, in place."""
    pixels.mul_(factor)
    return pixels.clamp_(max=1.0) if factor > 1 else pixels


def _luma(pixels: Tensor) -> Tensor:
    """(3, H, W) -> (H, W)."""
    return (pixels[0] * GREY[0]).add_(pixels[1], alpha=GREY[1]).add_(pixels[2], alpha=GREY[2])


def adjust_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Blend with the mean luma of the picture, in place: 0 is flat grey, 1 the picture itself."""
    means = pixels.numpy().reshape(3, -1).mean(axis=1, dtype=np.float64)
    pixels.mul_(factor).add_((1 - factor) * float(means @ np.asarray(GREY)))
    return pixels.clamp_(0.0, 1.0) if factor > 1 else pixels


def adjust_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Blend every pixel with its own luma, in place: 0 is greyscale, 1 the picture itself."""
    grey = _luma(pixels).mul_(1 - factor)
    pixels.mul_(factor).add_(grey)
    return pixels.clamp_(0.0, 1.0) if factor > 1 else pixels


def adjust_hue(pixels: Tensor, shift: float) -> Tensor:
    """Turn the hue by `shift` of a full circle, in [-0.5, 0.5]; value and saturation stay. In place.

    With V the largest channel, C the difference of largest and smallest, and h the hue in sixths of the circle, a channel is
    V - C clip(2 - d, 0, 1), where d is the distance of h from the channel's opposite hue around the circle. That needs
    neither HSV pictures nor a modulo: for x in [-1, 11), the distance of x from 2 on a circle of 6 is ||x - 5| - 3|.
    """
    red, green, blue = pixels
    value = torch.maximum(torch.maximum(red, green), blue)  # (H, W)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    from_green = torch.add(blue - red, chroma, alpha=2)
    from_blue = torch.add(red - green, chroma, alpha=4)
    hue = torch.where(value == red, green - blue, torch.where(value == green, from_green, from_blue))
    hue.div_(chroma.clamp(min=1e-8))  # (H, W) in [-1, 5]
    for channel, opposite in enumerate((5.0, 3.0, 1.0)):
        distance = (hue + ((opposite + 6 * shift) % 6 - 5)).abs_().sub_(3).abs_()
        share = distance.neg_().add_(2).clamp_(0.0, 1.0).mul_(chroma)
        torch.sub(value, share, out=pixels[channel])
    return pixels


def to_grey(pixels: Tensor) -> Tensor:
    """Luma of (3, H, W) as one channel, (1, H, W)."""
    return _luma(pixels).unsqueeze(0)


def blur(pixels: Tensor, radius: float) -> Tensor:
    """Gaussian blur of (C, H, W) with standard deviation `radius` in pixels; edge pixels are repeated outwards."""
    reach = min(max(1, math.ceil(3 * radius)), 16)
    weights = [math.exp(-0.5 * (step / radius) ** 2) for step in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    padded = F.pad(pixels.unsqueeze(0), (reach, reach, reach, reach), mode="replicate")[0]
    height, width = pixels.shape[1:]
    for axis, size in ((1, height), (2, width)):
        out = padded.narrow(axis, reach, size) * (weights[0] / total)
        for step in range(1, reach + 1):
            pair = padded.narrow(axis, reach - step, size) + padded.narrow(axis, reach + step, size)
            out.add_(pair, alpha=weights[step] / total)
        padded = out
    return padded
