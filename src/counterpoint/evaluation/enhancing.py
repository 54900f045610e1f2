"""Pictures through a model that enhances them, and how near the result comes to the picture that was wanted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.data.images import decode
from counterpoint.evaluation.embedding import inference

__all__ = ["enhanced", "psnr", "read_picture", "ssim"]

_ROUNDING = 1 / (12 * 255**2)
"""Mean squared error of rounding to 8 bits: nothing stored in a file can be said to be nearer."""
_REACH, _SPREAD = 5, 1.5
"""Window of SSIM: 11 pixels, Gaussian."""
_C1, _C2 = 0.01**2, 0.03**2


def read_picture(value: Any) -> np.ndarray:
    """Bytes, path or picture -> (H, W, 3) uint8.

    Raises:
        BadRow: it cannot be decoded.
    """
    return np.array(decode(value))


def enhanced(system: Any, picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 through the model's `enhance`, rounded to 8 bits: the same shape.

    Raises:
        BadRow: fewer than 2 x 2 pixels, or a result that is not finite.
    """
    if min(picture.shape[:2]) < 2:
        raise BadRow(f"{picture.shape[1]} x {picture.shape[0]} pixels: too small to be enhanced")
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with inference(system):
        found = system.enhance(images)[0].float().cpu()
    if not bool(torch.isfinite(found).all()):
        raise BadRow("the enhanced picture is not finite")
    return (found * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


def psnr(picture: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two (H, W, 3) uint8 in dB; at most 58.92, that of rounding.

    Raises:
        ValueError: other shapes.
    """
    first, second = _pair(picture, target)
    return -10 * math.log10(max(float((first - second).square().mean()), _ROUNDING))


def ssim(picture: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity of two (H, W, 3) uint8, in [-1, 1]: the mean over places and channels.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861): Gaussian window of 11 pixels and standard deviation 1.5 that lies
    wholly inside the picture, K1 = 0.01, K2 = 0.03, each of the three channels by itself. In pictures with a shorter
    side below 11 pixels the window is as much smaller.

    Raises:
        ValueError: other shapes.
    """
    first, second = _pair(picture, target)
    means = [_smooth(values) for values in (first, second, first * first, second * second, first * second)]
    a, b, aa, bb, ab = means  # (3, h, w) each
    covariance, spread = ab - a * b, (aa - a * a) + (bb - b * b)
    similarity = (2 * a * b + _C1) * (2 * covariance + _C2) / ((a * a + b * b + _C1) * (spread + _C2))
    return float(similarity.mean())


def _pair(picture: np.ndarray, target: np.ndarray) -> tuple[Tensor, Tensor]:
    """(3, H, W) float64 in [0, 1] each."""
    if picture.shape != target.shape:
        raise ValueError(f"picture and target must have the same shape, got {picture.shape} and {target.shape}")
    first, second = (torch.from_numpy(values).permute(2, 0, 1).double() / 255 for values in (picture, target))
    return first, second


def _smooth(values: Tensor) -> Tensor:
    """(C, H, W) -> (C, h, w): Gaussian means of all windows that fit in."""
    for axis in (1, 2):
        reach = min(_REACH, (values.shape[axis] - 1) // 2)
        window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).double() / _SPREAD) ** 2)
        values = values.unfold(axis, 2 * reach + 1, 1) @ (window / window.sum())
    return values
