"""Views of a film: two clips a while apart, each distorted as a whole, for training; evenly spaced frames otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import Row
from counterpoint.data.videos import Video, open_video
from counterpoint.views import clip_pixels, pixels
from counterpoint.views.clip_sampling import Intervals, evenly_spaced, frame_numbers, two_starts
from counterpoint.views.image import IMAGENET_MEAN, IMAGENET_STD, Range, Triple

__all__ = ["ClipViews", "FixedClips"]

_BOX = 2 * pixels.ATTEMPTS + 2
_REST = 14
"""Uniform numbers that decide where a crop lies, and what happens to it. All are always drawn."""

_WORTH = 1.5
"""How many times as many pixels along a side as a view needs are decoded to smaller frames."""


def _check_whole(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")


@dataclass(frozen=True)
class ClipViews:
    """Two clips of a film; the defaults are CVRL's (arXiv 2008.03800, sections 3.2 and 3.3).

    Crop, flip, colours and blur are drawn once a clip, and are the same for all its frames. The two clips differ in
    `blur` and `solarise`.

    Attributes:
        frames: of a clip.
        stride: frames of the film from one to the next.
        size: side of the result, in pixels.
        scale: share of the frame's area that a crop covers.
        ratio: range of width / height of a crop, drawn on a log scale.
        interval: density of the time between the two clips: "decreasing" with it, or, for the ablations, "uniform" or
            "increasing".
        power: of the decreasing density; 1 is linear.
        spatial: "clip" distorts a clip as a whole. For the ablations: "frame" draws anew for every frame, "none" takes
            the centred square as it is.
        flip: probability of mirroring left to right. Set it to 0 where left and right mean something.
        jitter: strengths of brightness, contrast, saturation and hue, see `views.image.TwoViews`; random order.
        jitter_probability: probability of the colour jitter.
        grey: probability of greyscale.
        blur: probability of a Gaussian blur, of the first and of the second clip.
        blur_radius: range of its standard deviation, in pixels; it reaches a twentieth of `size`.
        solarise: probability of inverting the bright half of the values, of the first and of the second clip.
        mean, std: per-channel normalisation of values in [0, 1].

    Returns of a call: {"first": (3, frames, size, size), "second": likewise}, float32, normalised.
    """

    frames: int = 16
    stride: int = 2
    size: int = 224
    scale: Range = (0.3, 1.0)
    ratio: Range = (0.5, 2.0)
    interval: Intervals = "decreasing"
    power: float = 1.0
    spatial: Literal["clip", "frame", "none"] = "clip"
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    jitter_probability: float = 0.8
    grey: float = 0.2
    blur: tuple[float, float] = (1.0, 0.1)
    blur_radius: Range = (0.1, 2.0)
    solarise: tuple[float, float] = (0.0, 0.2)
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_whole(frames=self.frames, stride=self.stride, size=self.size)
        for name in ("scale", "ratio", "blur_radius"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "scale" and high > 1):
                raise ValueError(
                    f"{name} must be (low, high) with 0 < low <= high; a scale is at most 1. Got {low, high}"
                )
        for name in ("flip", "jitter_probability", "grey", "blur", "solarise"):
            if not all(0 <= value <= 1 for value in np.atleast_1d(getattr(self, name)).tolist()):
                raise ValueError(f"{name}: a probability is in [0, 1]; got {getattr(self, name)!r}")
        if any(strength < 0 for strength in self.jitter) or self.jitter[3] > 0.5:
            raise ValueError(f"jitter must be four strengths >= 0, the last (hue) at most 0.5; got {self.jitter}")
        if not self.power > 0 or any(value <= 0 for value in self.std):
            raise ValueError(f"power and std must be above 0; got {self.power} and {self.std}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> two clips."""
        draws = self.frames if self.spatial == "frame" else 1
        when, how = rng.random(4), rng.random((2, draws, _BOX + _REST + 1))
        with open_video(row["video"]) as video:
            numbers = self._numbers(video.frames, when)
            boxes = [[self._box(video, drawn) for drawn in numbers_of] for numbers_of in how]
            shortest = min(video.height, video.width)
            needed = max(self.size * shortest / min(r - le, b - t) for clip in boxes for le, t, r, b in clip)
            # As many pixels as the smallest crop needs, where that saves enough to be worth a second resampling.
            side = math.ceil(needed) if _WORTH * needed < shortest else None
            found = video.read(np.concatenate(numbers).tolist(), smallest_side=side)
            height, width = video.height, video.width
        clips = torch.from_numpy(found).permute(0, 3, 1, 2).split(self.frames)  # (T, 3, h, w) each
        views = []
        for second, (clip, places, drawn) in enumerate(zip(clips, boxes, how, strict=True)):
            reduced = [_scaled(box, clip.shape[3] / width, clip.shape[2] / height) for box in places]
            parts = zip(clip.split(self.frames // draws), reduced, drawn, strict=True)
            made = [self._finish(clip_pixels.cut(part, box, self.size), n[_BOX:], second) for part, box, n in parts]
            views.append(torch.cat(made, dim=1))
        return {"first": views[0], "second": views[1]}

    def _numbers(self, frames: int, drawn: np.ndarray) -> list[np.ndarray]:
        """The frames of both clips, in random order of the clips, from four numbers in [0, 1)."""
        starts = two_starts(
            frames,
            self.frames,
            self.stride,
            interval=float(drawn[0]),
            places=(float(drawn[1]), float(drawn[2])),
            power=self.power,
            density=self.interval,
        )
        order = (starts.first, starts.second) if drawn[3] < 0.5 else (starts.second, starts.first)
        return [frame_numbers(start, self.frames, self.stride, frames) for start in order]

    def _box(self, video: Video, drawn: np.ndarray) -> pixels.Box:
        """Where a crop lies in a frame, from numbers (>= 22,) in [0, 1)."""
        if self.spatial == "none":
            return _squares(video.height, video.width, 1)[0]
        areas, shapes = drawn[: 2 * pixels.ATTEMPTS].reshape(2, pixels.ATTEMPTS)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        return pixels.crop_box(
            video.width,
            video.height,
            areas=(self.scale[0] + (self.scale[1] - self.scale[0]) * areas).tolist(),
            ratios=np.exp(low + (high - low) * shapes).tolist(),
            place=(float(drawn[_BOX - 2]), float(drawn[_BOX - 1])),
            limits=self.ratio,
        )

    def _finish(self, frames: Tensor, drawn: np.ndarray, second: int) -> Tensor:
        """Everything after the cut, from (T, 3, size, size) uint8 and numbers (15,): (3, T, size, size)."""
        clip = frames.transpose(0, 1)  # (3, T, size, size)
        if self.spatial == "none":
            return _normalised(clip, self.mean, self.std)
        tall = pixels.to_float(clip.flip(3) if drawn[0] < self.flip else clip).flatten(1, 2)  # (3, T * size, size)
        if drawn[1] < self.jitter_probability:
            tall = self._colour(tall, drawn[6:14])
        if drawn[2] < self.grey:
            tall = pixels.to_grey(tall)  # (1, T * size, size)
        if drawn[3] < self.blur[second]:
            low, high = self.blur_radius
            blurred = clip_pixels.blur(
                tall.unflatten(1, (len(frames), self.size)),
                low + (high - low) * float(drawn[4]),
                reach=self.size // 10 // 2,
            )
            tall = blurred.flatten(1, 2)
        if drawn[5] < self.solarise[second]:
            tall = clip_pixels.solarise(tall)
        return pixels.normalise(tall, self.mean, self.std).unflatten(1, (len(frames), self.size))

    def _colour(self, tall: Tensor, drawn: np.ndarray) -> Tensor:
        """Jitter with numbers (8,) in [0, 1): four strengths, four keys whose order is the order applied."""
        operations = (
            pixels.adjust_brightness,
            clip_pixels.adjust_contrast,
            clip_pixels.adjust_saturation,
            pixels.adjust_hue,
        )
        for which in np.argsort(drawn[4:]).tolist():
            strength = self.jitter[which]
            low, high = (-strength, strength) if which == 3 else (max(0.0, 1.0 - strength), 1.0 + strength)
            if strength > 0:
                tall = operations[which](tall, low + (high - low) * float(drawn[which]))
        return tall


@dataclass(frozen=True)
class FixedClips:
    """Inference: no randomness.

    Attributes:
        frames: of a clip.
        size: side of the result, in pixels.
        stride: frames of the film from one to the next. None takes one clip that spans the film: the frames in the
            middle of `frames` equal parts.
        clips: how many, evenly spaced over the film; 1 with stride None.
        crops: squares cut out of each, evenly spaced along the longer side; 1 is the centred one. Their side is the
            frame's shorter side.
        mean, std: per-channel normalisation of values in [0, 1].

    Returns of a call: {"video": (clips * crops, 3, frames, size, size)}, float32, normalised.
    """

    frames: int = 16
    size: int = 224
    stride: int | None = None
    clips: int = 1
    crops: int = 1
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        _check_whole(frames=self.frames, size=self.size, stride=self.stride or 1, clips=self.clips, crops=self.crops)
        if self.stride is None and self.clips > 1:
            raise ValueError(f"clips={self.clips} needs a stride: without one, a clip spans the whole film")

    def __call__(self, row: Row, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One row -> its clips; `rng` is not used."""
        with open_video(row["video"]) as video:
            found = video.read(self._numbers(video.frames).tolist(), smallest_side=self.size)
        frames = torch.from_numpy(found).permute(0, 3, 1, 2)  # (clips * T, 3, h, w)
        views = []
        for box in _squares(found.shape[1], found.shape[2], self.crops):
            whole = _normalised(clip_pixels.cut(frames, box, self.size).transpose(0, 1), self.mean, self.std)
            views.append(whole.unflatten(1, (self.clips, self.frames)).transpose(0, 1))  # (clips, 3, T, size, size)
        return {"video": torch.stack(views, dim=1).flatten(0, 1)}

    def _numbers(self, frames: int) -> np.ndarray:
        """(clips * T,) numbers of frames."""
        if self.stride is None:
            return evenly_spaced(frames, self.frames)
        room = max(frames - (self.frames - 1) * self.stride, 1)
        starts = evenly_spaced(room, self.clips).tolist()
        return np.concatenate([frame_numbers(start, self.frames, self.stride, frames) for start in starts])


def _normalised(clip: Tensor, mean: Triple, std: Triple) -> Tensor:
    """(3, T, H, W) uint8 -> float32, normalised."""
    tall = pixels.to_float(clip).flatten(1, 2)  # (3, T * H, W)
    return pixels.normalise(tall, mean, std).unflatten(1, tuple(clip.shape[1:3]))


def _squares(height: int, width: int, count: int) -> list[pixels.Box]:
    """Squares of the shorter side, evenly spaced along the longer one from end to end; one is centred."""
    side, room = min(height, width), abs(height - width)
    offsets = [room // 2] if count == 1 else [round(room * place / (count - 1)) for place in range(count)]
    return [(o, 0, o + side, side) if width >= height else (0, o, side, o + side) for o in offsets]


def _scaled(box: pixels.Box, across: float, down: float) -> pixels.Box:
    """The same box in a frame that was resized; at least one pixel."""
    left, top = round(box[0] * across), round(box[1] * down)
    return left, top, max(left + 1, round(box[2] * across)), max(top + 1, round(box[3] * down))
