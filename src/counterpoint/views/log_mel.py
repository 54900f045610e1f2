"""Log-mel features of speech: how loud each band of the ear's scale is, every hundredth of a second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["LogMel"]

_FULL_SCALE = 2.0**15  # samples are weighed as 16-bit numbers, so that the floor lies where Kaldi has it
_FLOOR = 2.0**-23
_PREEMPHASIS = 0.97
_TINY = 1e-7


@dataclass(frozen=True)
class LogMel:
    """Samples -> log-mel features, those of Kaldi and of wav2vec2-bert's feature extractor.

    Each window loses its mean, is pre-emphasised (0.97) and shaped (Povey's window); its power spectrum is summed over
    triangles on the mel scale; the logarithm is taken. Windows lie wholly inside the recording.

    Attributes:
        rate: samples a second that it expects.
        bins: bands.
        window: seconds.
        hop: seconds from one window to the next.
        low: lower edge of the first band in Hz; the last ends at half the rate.
    """

    rate: int = 16_000
    bins: int = 80
    window: float = 0.025
    hop: float = 0.01
    low: float = 20.0

    def __post_init__(self) -> None:
        if self.rate < 1000 or self.bins < 1 or not 0 <= self.low < self.rate / 2:
            raise ValueError(
                f"rate must be at least 1000, bins at least 1 and low below half the rate; got rate={self.rate}, "
                f"bins={self.bins}, low={self.low}"
            )
        if not 0 < self.hop <= self.window <= 1:
            raise ValueError(f"0 < hop <= window <= 1 must hold, got hop={self.hop}, window={self.window}")

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples of a window and from one to the next."""
        return round(self.window * self.rate), round(self.hop * self.rate)

    def count(self, samples: int) -> int:
        """Windows in so many samples; one at least."""
        window, hop = self.sizes
        return 1 + max(0, samples - window) // hop

    def raw(self, samples: np.ndarray) -> np.ndarray:
        """(N,) in [-1, 1] -> (T, bins) float32 natural logarithms, not normalised; too short ones are filled with 0."""
        window, hop = self.sizes
        samples = np.pad(samples, (0, max(0, window - len(samples))))
        pieces = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop] * np.float32(_FULL_SCALE)  # (T, w)
        pieces = pieces - pieces.mean(axis=1, keepdims=True)
        before = np.concatenate([pieces[:, :1], pieces[:, :-1]], axis=1)
        shape, triangles, length = _tables(self, window)
        spectrum = np.abs(np.fft.rfft((pieces - _PREEMPHASIS * before) * shape, n=length, axis=1)) ** 2
        return np.log(np.maximum(spectrum @ triangles, _FLOOR)).astype(np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(N,) -> (T, bins) float32 with mean 0 and variance 1 in every band over the recording."""
        return normalised(self.raw(samples))


def normalised(features: np.ndarray) -> np.ndarray:
    """(T, bins) -> the same with mean 0 and variance 1 (over T - 1) in every band; 0 where nothing moves."""
    centred = features - features.mean(axis=0, keepdims=True, dtype=np.float64)  # a constant band becomes 0
    variance = (centred**2).sum(axis=0, keepdims=True) / max(len(features) - 1, 1)
    return (centred / np.sqrt(variance + _TINY)).astype(np.float32)


def _mel(frequency: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(frequency, dtype=np.float64) / 700.0)


@lru_cache(maxsize=16)
def _tables(settings: LogMel, window: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Window (w,), triangles (F, bins) with straight sides on the mel scale, and the length of the transform."""
    length = 2 ** math.ceil(math.log2(max(window, 2)))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / max(window - 1, 1))
    edges = np.linspace(_mel(settings.low), _mel(settings.rate / 2), settings.bins + 2)
    places = _mel(np.arange(length // 2 + 1) * settings.rate / length)[:, None]  # (F, 1)
    rising = (places - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (hann**0.85).astype(np.float32), triangles.astype(np.float32), length
