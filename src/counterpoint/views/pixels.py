"""Pixel operations: pure functions of a picture and of numbers that were drawn elsewhere.

Pictures are cut and resized as bytes. Colours and blur work on a float32 tensor (3, H, W) in [0, 1], in place, with
the definitions of `torchvision.transforms.v2.functional`. All are elementwise, and the one mean is taken by NumPy: the
result never depends on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

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
    "to_bytes",
    "to_float",
    "to_grey",
]

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in the luma."""

ATTEMPTS = 10
"""How often the shape of a crop is drawn before the centre is taken."""

_STRIP = 26_000
"""Pixels that are worked on at once where many intermediate values are needed: they then stay in the cache."""

Box = tuple[int, int, int, int]


def crop_box(
    width: int,
    height: int,
    *,
    areas: Sequence[float],
    ratios: Sequence[float],
    place: tuple[float, float],
    limits: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
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


def to_bytes(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resize_box(pixels: Tensor, box: Box, size: int, *, bicubic: bool = False) -> Tensor:
    """Cut a box (left, top, right, bottom) out of (3, H, W) uint8 and resize it, antialiased: (3, size, size) uint8.

    torch's kernel for bytes gives Pillow's values to one level in 255, in a third to a fifth of its time.
    """
    left, top, right, bottom = box
    cut = pixels[None, :, top:bottom, left:right]
    mode = "bicubic" if bicubic else "bilinear"
    return F.interpolate(cut, size=(size, size), mode=mode, antialias=True)[0]


def to_float(pixels: Tensor, *, flip: bool = False) -> Tensor:
    """(3, H, W) uint8 -> float32 in [0, 1], contiguous and new, mirrored left to right if `flip`."""
    pixels = pixels.flip(2) if flip else pixels
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


def rotate(pixels: Tensor, degrees: float) -> Tensor:
    """Turn (3, H, W) in [0, 1] anticlockwise about its centre; the corners become white, as transparency does."""
    angle, (height, width) = math.radians(degrees), pixels.shape[1:]
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]])
    grid = F.affine_grid(turn, [1, 3, height, width], align_corners=False)
    # What lies outside is sampled as zero: sample the negative.
    return 1.0 - F.grid_sample(1.0 - pixels[None], grid, align_corners=False)[0]


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(value - mean) / std for each channel, in place; one-channel pixels (1, H, W) become (3, H, W)."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std))
    return (pixels.mul_(scale) if len(pixels) == 3 else pixels * scale).add_(shift)


@lru_cache(maxsize=16)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Factors and offsets (3, 1, 1) that normalise."""
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor([1 / s for s in std]).view(3, 1, 1), torch.tensor(shift).view(3, 1, 1)


def adjust_brightness(pixels: Tensor, factor: float) -> Tensor:
    """Multiply every channel by `factor` >= 0, in place."""
    pixels.mul_(factor)
    return pixels.clamp_(max=1.0) if factor > 1 else pixels


def _luma(pixels: Tensor) -> Tensor:
    """(3, H, W) -> (H, W)."""
    return (pixels[0] * GREY[0]).add_(pixels[1], alpha=GREY[1]).add_(pixels[2], alpha=GREY[2])


def adjust_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Blend with the mean luma of the picture, in place: 0 is flat grey, 1 the picture itself."""
    means = pixels.numpy().reshape(3, -1).mean(axis=1)  # NumPy sums pairwise, in one thread
    pixels.mul_(factor).add_((1 - factor) * sum(float(m) * weight for m, weight in zip(means, GREY, strict=True)))
    return pixels.clamp_(0.0, 1.0) if factor > 1 else pixels


def adjust_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Blend every pixel with its own luma, in place: 0 is greyscale, 1 the picture itself."""
    grey = _luma(pixels).mul_(1 - factor)
    pixels.mul_(factor).add_(grey)
    return pixels.clamp_(0.0, 1.0) if factor > 1 else pixels


def adjust_hue(pixels: Tensor, shift: float) -> Tensor:
    """Turn the hue by `shift` of a full circle, in [-0.5, 0.5]; value and saturation stay. In place.

    With V the largest and v the smallest channel, C = V - v, and h the hue in sixths of the circle, a channel becomes
    V - C clip(2 - d, 0, 1), where d is the distance of h + 6 shift from the channel's place on the circle. For x in
    [-1, 11) the distance of x from 2 on a circle of length 6 is ||x - 5| - 3|; multiplied by C nothing is divided, so
    grey pixels need no special case.
    """
    rows = max(1, _STRIP // pixels.shape[2])
    for first in range(0, pixels.shape[1], rows):
        _turn_hue(pixels[:, first : first + rows], shift)
    return pixels


def _turn_hue(pixels: Tensor, shift: float) -> None:
    red, green, blue = channels = pixels.unbind(0)
    value = torch.maximum(torch.maximum(red, green), blue)  # (rows, W)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - lowest
    from_green = torch.add(blue - red, chroma, alpha=2)
    from_blue = torch.add(red - green, chroma, alpha=4)
    # 0 where a channel is the largest, else 1: interpolating is ten times as fast as `torch.where`, and exact.
    not_green, not_red = torch.sub(value, green).sign_(), torch.sub(value, red).sign_()
    hue = (green - blue).lerp_(from_green.lerp_(from_blue, not_green), not_red)  # (rows, W): h * C
    three, base = chroma * 3, torch.sub(value, chroma, alpha=2)
    for channel, place in enumerate((5.0, 3.0, 1.0)):
        distance = torch.add(hue, chroma, alpha=(place + 6 * shift) % 6 - 5).abs_().sub_(three).abs_()
        torch.clamp(distance.add_(base), lowest, value, out=channels[channel])


def to_grey(pixels: Tensor) -> Tensor:
    """Luma of (3, H, W) as one channel, (1, H, W)."""
    return _luma(pixels).unsqueeze(0)


def blur(pixels: Tensor, radius: float) -> Tensor:
    """Gaussian blur of (C, H, W) with standard deviation `radius` in pixels; edge pixels are repeated outwards."""
    reach = max(1, min(round(3 * radius), *pixels.shape[1:]))
    weights = [math.exp(-0.5 * (step / radius) ** 2) for step in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    padded = F.pad(pixels.unsqueeze(0), (reach, reach, reach, reach), mode="replicate")[0]
    for axis, size in ((1, pixels.shape[1]), (2, pixels.shape[2])):
        out = padded.narrow(axis, reach, size) * (weights[0] / total)
        pair = torch.empty_like(out)
        for step in range(1, reach + 1):
            torch.add(padded.narrow(axis, reach - step, size), padded.narrow(axis, reach + step, size), out=pair)
            out.add_(pair, alpha=weights[step] / total)
        padded = out
    return padded
