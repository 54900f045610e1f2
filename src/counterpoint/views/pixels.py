"""Pixel operations: pure functions of a picture and of numbers that were drawn elsewhere.

Pictures are cut and resized as bytes. Colours and blur work on a float32 tensor (3, H, W) in [0, 1], in place, with
the definitions of `torchvision.transforms.v2.functional`. All are elementwise, and one thread takes the mean of a
channel: the result never depends on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from counterpoint.data.images import decode, plain_jpeg

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "blur",
    "crop_box",
    "normalise",
    "read",
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


def read(value: Any, *, smallest_side: int | None = None) -> Tensor:
    """The picture that `counterpoint.data.images.decode` gives, as (3, H, W) uint8, channels last in memory.

    Most JPEGs are decoded by torchvision, into the same values: it runs the same library without copying them twice.

    Args:
        value, smallest_side: as for `decode`.

    Raises:
        BadRow: as `decode`.
    """
    data = plain_jpeg(value, smallest_side=smallest_side)
    if data is not None:
        from torchvision.io import decode_jpeg  # here, because it loads all of torchvision

        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        except RuntimeError:  # damaged, or a torchvision without JPEG
            pass
    return to_bytes(decode(value, smallest_side=smallest_side))


def to_bytes(image: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) uint8, channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resize_box(pixels: Tensor, box: Box, size: int, *, bicubic: bool = False) -> Tensor:
    """Cut a box (left, top, right, bottom) out of (3, H, W) uint8 and resize it, antialiased: (3, size, size) uint8.

    torch's kernel for bytes gives Pillow's values to one level in 255, in a third to a fifth of its time. It is fastest
    where channels lie last in memory and without gaps.
    """
    left, top, right, bottom = box
    cut = pixels[None, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
    mode = "bicubic" if bicubic else "bilinear"
    return F.interpolate(cut, size=(size, size), mode=mode, antialias=True)[0]


def to_float(pixels: Tensor, *, flip: bool = False, out: Tensor | None = None) -> Tensor:
    """(3, H, W) uint8 -> float32 in [0, 1], contiguous, mirrored left to right if `flip`; new, or `out`."""
    array = pixels.numpy()
    # Bytes are brought into order first: a quarter of the memory traffic.
    planes = torch.from_numpy(np.ascontiguousarray(array[..., ::-1] if flip else array))
    values = planes.to(torch.float32) if out is None else out.copy_(planes)
    return values.mul_(1 / 255)


def rotate(pixels: Tensor, degrees: float) -> Tensor:
    """Turn (3, H, W) in [0, 1] anticlockwise about its centre; the corners become white, as transparency does."""
    angle, (height, width) = math.radians(degrees), pixels.shape[1:]
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]])
    grid = F.affine_grid(turn, [1, 3, height, width], align_corners=False)
    # What lies outside is sampled as zero: sample the negative.
    return 1.0 - F.grid_sample(1.0 - pixels[None], grid, align_corners=False)[0]


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float], *, out: Tensor | None = None) -> Tensor:
    """(value - mean) / std for each channel, in place or in `out`; one-channel pixels (1, H, W) become (3, H, W)."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std))
    if out is None:
        out = pixels if len(pixels) == 3 else pixels.new_empty(3, *pixels.shape[1:])
    return torch.mul(pixels, scale, out=out).add_(shift)


@lru_cache(maxsize=16)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Factors and offsets (3, 1, 1) that normalise."""
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor([1 / s for s in std]).view(3, 1, 1), torch.tensor(shift).view(3, 1, 1)


def adjust_brightness(pixels: Tensor, factor: float) -> Tensor:
    """Multiply every channel by `factor` >= 0, in place."""
    pixels.mul_(factor)
    return pixels.clamp_(max=1.0) if factor > 1 else pixels


def _luma(pixels: Tensor, share: float = 1.0) -> Tensor:
    """(3, H, W) -> `share` of the luma, (H, W)."""
    red, green, blue = (weight * share for weight in GREY)
    return (pixels[0] * red).add_(pixels[1], alpha=green).add_(pixels[2], alpha=blue)


def adjust_contrast(pixels: Tensor, factor: float) -> Tensor:
    """Blend with the mean luma of the picture, in place: 0 is flat grey, 1 the picture itself."""
    sums = pixels.flatten(1).sum(1).tolist()  # each by one thread
    mean = sum(value * weight for value, weight in zip(sums, GREY, strict=True)) / pixels[0].numel()
    torch.add(torch.tensor((1 - factor) * mean), pixels, alpha=factor, out=pixels)
    return pixels.clamp_(0.0, 1.0) if factor > 1 else pixels


def adjust_saturation(pixels: Tensor, factor: float) -> Tensor:
    """Blend every pixel with its own luma, in place: 0 is greyscale, 1 the picture itself."""
    torch.add(_luma(pixels, 1 - factor), pixels, alpha=factor, out=pixels)
    return pixels.clamp_(0.0, 1.0) if factor > 1 else pixels


def adjust_hue(pixels: Tensor, shift: float) -> Tensor:
    """Turn the hue by `shift` of a full circle, in [-0.5, 0.5]; value and saturation stay. In place.

    Let V be the largest and v the smallest channel, C = V - v. Two sixths of the circle exchange the channels in turn,
    and three replace every x by V + v - x, so a turn by any number of whole sixths costs next to nothing. What is left
    is d sixths with |d| <= 1/2. A channel x, whose neighbour on the side that the hue moves away from it is y, becomes

        clip(x + clip(y, v + |d| C, V - |d| C) - y, v, V):

    while y is near v, x = V or x moves up by |d| C less what y has risen; while y is near V, x moves down in the same
    way, or is v; in between it stays. Nothing is divided, so grey pixels need no special case.
    """
    sixths = round(6 * shift)
    rows = max(1, _STRIP // pixels.shape[2])
    for first in range(0, pixels.shape[1], rows):
        _turn_hue(pixels[:, first : first + rows], sixths, 6 * shift - sixths)
    return pixels


def _turn_hue(pixels: Tensor, sixths: int, rest: float) -> None:
    """Turn (3, rows, W) in place by whole sixths of the circle and by a rest in [-1/2, 1/2] of one."""
    red, green, blue = channels = pixels.unbind(0)
    lowest = torch.minimum(red, green)  # (rows, W)
    value = torch.maximum(red, green)
    torch.minimum(lowest, blue, out=lowest)
    torch.maximum(value, blue, out=value)
    chroma = value - lowest
    low, high = torch.add(lowest, chroma, alpha=abs(rest)), torch.sub(value, chroma, alpha=abs(rest))
    step = 1 if rest > 0 else 2
    turned = []
    for number, channel in enumerate(channels):
        neighbour = channels[(number + step) % 3]
        turned.append(torch.clamp(neighbour, low, high).sub_(neighbour).add_(channel))
    if sixths % 2:
        sixths += 3
        both = torch.add(lowest, value, out=chroma)
        for new in turned:
            torch.sub(both, new, out=new)
    for number, channel in enumerate(channels):
        torch.clamp(turned[(number - sixths // 2) % 3], lowest, value, out=channel)


def to_grey(pixels: Tensor) -> Tensor:
    """Luma of (3, H, W) as one channel, (1, H, W)."""
    return _luma(pixels).unsqueeze(0)


def blur(pixels: Tensor, radius: float) -> Tensor:
    """Gaussian blur of (C, H, W) with standard deviation `radius` in pixels, in place; edges are repeated outwards."""
    reach = max(1, min(round(3 * radius), *pixels.shape[1:]))
    weights = [math.exp(-0.5 * (step / radius) ** 2) for step in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    shares = [weight / total for weight in weights]
    for axis in (1, 2):
        _smooth(pixels, axis, shares)
    return pixels


def _smooth(pixels: Tensor, axis: int, shares: list[float]) -> None:
    """Replace every value of (C, H, W) by a weighted sum of it and its neighbours along an axis, in place."""
    reach, size, shape = len(shares) - 1, pixels.shape[axis], list(pixels.shape)
    shape[axis] += 2 * reach
    padded = torch.empty(shape)
    before, middle, after = padded.split((reach, size, reach), axis)
    middle.copy_(pixels)
    before.copy_(pixels.narrow(axis, 0, 1))
    after.copy_(pixels.narrow(axis, size - 1, 1))
    shifted = padded.unfold(axis, size, 1).movedim(-1, axis + 1).unbind(axis)  # 2 reach + 1 views of (C, H, W)
    pixels.mul_(shares[0])
    for step in range(1, reach + 1):
        pixels.add_(shifted[reach - step], alpha=shares[step]).add_(shifted[reach + step], alpha=shares[step])
