"""Views of a recording: cuts, speed, noise, masked spans and bands, and the whole of it for inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.data.recordings import decode, duration, resample
from counterpoint.views.log_mel import LogMel

if TYPE_CHECKING:
    from counterpoint.data import Row

__all__ = [
    "Cut",
    "MaskedSpeech",
    "Masking",
    "Perturb",
    "SpecAugment",
    "Utterance",
    "draw_distractors",
    "pad_speech",
    "span_mask",
]

_LEAST_FRAMES = 4
"""Frames of a recording in which something can be masked and something be left."""


def span_mask(
    length: int, *, probability: float, span: int, least: int, rng: np.random.Generator, epsilon: float
) -> np.ndarray:
    """(length,) bool, True where a span covers (wav2vec 2.0, section 3.1; the counts of its public implementations).

    int(probability * length / span + epsilon) spans, at least `least`, at most as many as fit side by side; they begin
    at different places, drawn uniformly, and may overlap. `probability` is thus an upper bound of the masked share.

    Args:
        length: frames of the recording.
        probability: in [0, 1].
        span: frames of a span; of longer ones than the recording there is none.
        least: spans at least.
        rng: draws the places.
        epsilon: in [0, 1), a uniform draw: rounds the number of spans up or down by chance.
    """
    count = max(int(probability * length / span + epsilon), least)
    count = max(0, min(count, length // span, length - span + 1))
    starts = rng.choice(length - span + 1, count, replace=False) if count else np.zeros(0, dtype=np.int64)
    mask = np.zeros(length, dtype=bool)
    mask[(starts[:, None] + np.arange(span)).ravel()] = True
    return mask


def draw_distractors(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(T,) mask -> (T, count) int64: for every masked frame other masked frames, with replacement; 0 in other rows.

    Raises:
        ValueError: a single masked frame, which has no others.
    """
    places = np.flatnonzero(mask)
    found = np.zeros((len(mask), count), dtype=np.int64)
    if not len(places):
        return found
    if len(places) < 2:
        raise ValueError("mask must hold at least two masked frames, so that each has another, got one")
    drawn = rng.integers(0, len(places) - 1, (len(places), count))
    drawn += drawn >= np.arange(len(places))[:, None]  # skips the frame itself
    found[places] = places[drawn]
    return found


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


@dataclass(frozen=True)
class Cut:
    """Which part of a recording is decoded: only that is.

    Attributes:
        seconds: of longer recordings a part of this length, drawn uniformly.
    """

    seconds: float = 16.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, got {self.seconds}")

    def __call__(self, audio: Any, rate: int, rng: np.random.Generator) -> np.ndarray:
        """A recording -> (N,) samples at `rate`. Always draws one number."""
        place = rng.random()
        spare = duration(audio) - self.seconds
        start = place * spare if spare > 0 else 0.0
        return decode(audio, rate=rate, start=start, seconds=self.seconds, longest=max(self.seconds, 600.0))


@dataclass(frozen=True)
class Perturb:
    """Other speed and noise (Ko et al. 2015 for the speed).

    Attributes:
        speed: factors of which one is drawn; pitch moves with it.
        noise: probability of adding noise whose power falls with frequency^c, c drawn from [0, 2].
        decibels: range of the loudness of the recording over the noise.
    """

    speed: tuple[float, ...] = (1.0,)
    noise: float = 0.0
    decibels: tuple[float, float] = (5.0, 30.0)

    def __post_init__(self) -> None:
        _share("noise", self.noise)
        if not self.speed or any(not 0.25 <= factor <= 4 for factor in self.speed):
            raise ValueError(f"speed must hold factors from 0.25 to 4, got {self.speed}")
        if self.decibels[0] > self.decibels[1]:
            raise ValueError(f"decibels must be (low, high), got {self.decibels}")

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(N,) -> (N / speed,) samples. Always draws four numbers, and N more when there is noise."""
        choice, chance, slope, loudness = rng.random(4)
        factor = self.speed[int(choice * len(self.speed))]
        samples = resample(samples, round(1000 * factor), 1000)
        if chance >= self.noise:
            return samples
        spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
        spectrum *= np.arange(1, len(spectrum) + 1) ** -slope  # in amplitude: power falls with twice the exponent
        noise = np.fft.irfft(spectrum, n=len(samples))
        level = self.decibels[0] + loudness * (self.decibels[1] - self.decibels[0])
        size = np.sqrt((samples**2).mean() / max((noise**2).mean(), 1e-20)) * 10 ** (-level / 20)
        return (samples + size * noise).astype(np.float32)


@dataclass(frozen=True)
class SpecAugment:
    """Bands and stretches of time put to 0, the mean of normalised features (Park et al. 2019, section 2).

    Attributes:
        bands: masks across frequency; `width` is the largest of them, in bins.
        stretches: masks across time; `share` is the longest, of the recording.
    """

    bands: int = 2
    width: int = 27
    stretches: int = 2
    share: float = 0.05

    def __post_init__(self) -> None:
        _share("share", self.share)
        if min(self.bands, self.width, self.stretches) < 0:
            raise ValueError(f"bands, width and stretches must not be negative, got {self}")

    def __call__(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(T, bins) -> a copy with masks."""
        features = features.copy()
        frames, bins = features.shape
        for axis, count, most in (
            (1, self.bands, min(self.width, bins)),
            (0, self.stretches, int(self.share * frames)),
        ):
            for size, place in rng.random((count, 2)):
                wide = int(size * (most + 1))
                first = int(place * (features.shape[axis] - wide + 1))
                features[(slice(None),) * axis + (slice(first, first + wide),)] = 0.0
        return features


@dataclass(frozen=True)
class Masking:
    """Which frames are hidden, and how many others each is told from.

    Attributes:
        probability: upper bound of the masked share, see `span_mask`.
        span: frames of a span; in short recordings at most half of them.
        least: spans of a recording at least.
        distractors: masked frames of the same recording that a frame is told from.
    """

    probability: float = 0.65
    span: int = 10
    least: int = 2
    distractors: int = 100

    def __post_init__(self) -> None:
        _share("probability", self.probability)
        if self.span < 2 or self.least < 1 or self.distractors < 1:
            raise ValueError(f"span must be at least 2, least and distractors at least 1, got {self}")


@dataclass(frozen=True)
class MaskedSpeech:
    """Features of a cut of a recording, and which of the encoder's frames are hidden.

    Attributes:
        mel: the features.
        stride: windows that become one frame of the encoder.
        cut: which part.
        perturb: speed and noise.
        masking: what is hidden.
    """

    mel: LogMel
    stride: int
    cut: Cut
    perturb: Perturb
    masking: Masking

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> "features" (T, bins), "mask" (T',) bool, "distractors" (T', K) int64, and "seed" for its noise.

        Raises:
            BadRow: not a recording, or too short to hide something of it.
        """
        samples = self.perturb(self.cut(row["audio"], self.mel.rate, rng), rng)
        features = self.mel(samples)
        frames = -(-len(features) // self.stride)
        if frames < _LEAST_FRAMES:
            raise BadRow(f"{len(samples) / self.mel.rate:.2f} s are too short: nothing of it can be hidden")
        mask = span_mask(
            frames,
            probability=self.masking.probability,
            span=min(self.masking.span, frames // 2),
            least=self.masking.least,
            rng=rng,
            epsilon=rng.random(),
        )
        return {
            "features": torch.from_numpy(features),
            "mask": torch.from_numpy(mask),
            "distractors": torch.from_numpy(draw_distractors(mask, self.masking.distractors, rng)),
            "seed": torch.tensor(int(rng.integers(2**62))),
        }


@dataclass(frozen=True)
class Utterance:
    """Features of a recording, without randomness.

    Attributes:
        mel: the features.
        longest: seconds; of longer recordings the middle is taken.
    """

    mel: LogMel
    longest: float = 60.0

    def __call__(self, row: Row) -> dict[str, Any]:
        """One row -> "features" (T, bins).

        Raises:
            BadRow: not a recording.
        """
        start = max(0.0, (duration(row["audio"]) - self.longest) / 2)
        samples = decode(row["audio"], rate=self.mel.rate, start=start, seconds=self.longest, longest=self.longest)
        return {"features": torch.from_numpy(self.mel(samples))}


def pad_speech(samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Samples -> "features" (B, T, bins) padded with 0, "lengths" (B,) int64, and everything else padded or stacked."""
    batch = {"lengths": torch.tensor([len(sample["features"]) for sample in samples])}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        stack = torch.stack if first.dim() == 0 else _pad
        batch[name] = stack(values)
    return batch


def _pad(values: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
