"""Pixel operations of whole clips: pure functions, as CVRL's official code defines them (arXiv 2008.03800).

Colours work on the frames stacked into one tall picture (3, T * H, W), float32 in [0, 1], in place: whatever an
operation measures, it measures over the clip, so that a change of brightness from frame to frame survives. Brightness,
hue and greyscale are those of `pixels`; contrast and saturation have TensorFlow's definitions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoint.views.pixels import Box

__all__ = ["adjust_contrast", "adjust_saturation", "blur", "cut", "solarise"]


def cut(frames: Tensor, box: Box, size: int) -> Tensor:
    """The same box (left, top, right, bottom) of every frame (T, 3, H, W) uint8, antialiased: (T, 3, size, size)."""
    left, top, right, bottom = box
    return F.interpolate(frames[:, :, top:bottom, left:right], size=(size, size), mode="bilinear", antialias=True)


def adjust_contrast(tall: Tensor, factor: float) -> Tensor:
    """Blend every channel with its mean over the clip, in place: 0 is flat, 1 the clip itself."""
    means = tall.numpy().reshape(len(tall), -1).mean(axis=1)  # NumPy sums pairwise, in one thread
    for channel, mean in zip(tall, means.tolist(), strict=True):
        channel.mul_(factor).add_((1 - factor) * mean)
    return tall.clamp_(0.0, 1.0)


def adjust_saturation(tall: Tensor, factor: float) -> Tensor:
    """Multiply the saturation (of hue, saturation, value), at most to 1; hue and value stay. In place.

    With V the largest and v the smallest channel, saturation is (V - v) / V, and a channel x becomes
    V - k (V - x) with k = min(factor, V / (V - v)).
    """
    red, green, blue = tall.unbind(0)  # (T * H, W) each; three of them are several times as fast as `amax`
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Grey pixels have value / chroma without a bound; multiplied by x - V = 0 any factor will do.
    scale = (value / chroma.clamp_(min=1e-12)).clamp_(max=factor)
    return tall.sub_(value).mul_(scale).add_(value)


def blur(clip: Tensor, deviation: float, *, reach: int) -> Tensor:
    """Gaussian blur of every frame of (C, T, H, W), zero outside of the frames.

    Args:
        clip: any number of channels and frames.
        deviation: of the Gaussian, in pixels.
        reach: pixels to either side; the 2 reach + 1 weights sum to one. 0 changes nothing.
    """
    weights = [math.exp(-0.5 * (step / deviation) ** 2) for step in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (2, 3):
        size = clip.shape[axis]
        out = clip * (weights[0] / total)
        for step in range(1, min(reach, size - 1) + 1):
            weight = weights[step] / total
            out.narrow(axis, step, size - step).add_(clip.narrow(axis, 0, size - step), alpha=weight)
            out.narrow(axis, 0, size - step).add_(clip.narrow(axis, step, size - step), alpha=weight)
        clip = out
    return clip


def solarise(values: Tensor) -> Tensor:
    """Values in [0, 1] from 1/2 on are inverted."""
    return torch.where(values >= 0.5, 1.0 - values, values)
