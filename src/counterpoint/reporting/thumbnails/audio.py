"""A recording as its waveform over its spectrogram, from left to right."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from counterpoint.data.recordings import decode, duration
from counterpoint.views.log_mel import LogMel

__all__ = ["thumbnail"]

_SECONDS = 10.0
"""Of longer recordings the beginning is drawn."""

_MEL = LogMel(bins=64)
_RANGE = 14.0
"""Natural logarithms of power below the loudest that are still drawn, about 60 dB."""

_INK, _PAPER = (59, 130, 246), (255, 255, 255)


def thumbnail(value: Any, side: int) -> Image.Image:
    """A picture `side` pixels high and twice as wide: the waveform in its upper third, the spectrogram below it.

    Raises:
        BadRow: not a recording.
    """
    width, upper = 2 * side, max(1, side // 3)
    seconds = max(min(duration(value), _SECONDS), 1 / _MEL.rate)
    samples = decode(value, rate=_MEL.rate, seconds=seconds)
    picture = np.full((side, width, 3), _PAPER, dtype=np.uint8)
    picture[:upper][_waveform(samples, upper, width)] = _INK
    picture[upper:] = _spectrogram(samples, side - upper, width)
    return Image.fromarray(picture)


def _waveform(samples: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) of bool: from the lowest to the highest sample of each column, the loudest filling the height."""
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    pieces = [samples[first : max(last, first + 1)] for first, last in zip(edges[:-1], edges[1:], strict=True)]
    loudest = max(float(np.abs(samples).max()), 1e-6)
    low, high = (np.array([limit(piece) for piece in pieces]) / loudest for limit in (np.min, np.max))
    rows = np.linspace(1, -1, height)[:, None]  # of the middle of each row of pixels
    reach = 1 / height  # a straight line for silence
    return (rows <= high + reach) & (rows >= low - reach)


def _spectrogram(samples: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8, low frequencies below."""
    levels = _MEL.raw(samples).T[::-1]  # (bins, T)
    shown = np.clip(1 + (levels - levels.max()) / _RANGE, 0, 1)
    colours = (mpl.colormaps["magma"](shown)[..., :3] * 255).round().astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR))
