"""Where clips lie in a film: pure functions of its length and of numbers that were drawn elsewhere."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

__all__ = ["Intervals", "Starts", "draw_interval", "evenly_spaced", "frame_numbers", "interval_cdf", "two_starts"]

Intervals = Literal["decreasing", "uniform", "increasing"]
"""How the density of the interval between two clips runs from interval 0 on."""

_HALVINGS = 60


class Starts(NamedTuple):
    """First frames of two clips, and the number below which the first one was drawn."""

    first: int
    second: int
    bound: int


def interval_cdf(interval: float, longest: float, *, power: float) -> float:
    """Share of the intervals up to `interval` (arXiv 2008.03800, section 3.2).

    The density (p + 1) / (p M) (1 - (t / M)^p) falls from interval 0 to 0 at the longest: linearly for power 1.

    Args:
        interval: t in [0, longest], in frames.
        longest: M > 0.
        power: p > 0.
    """
    share = interval / longest
    return (power + 1) / power * share - share ** (power + 1) / power


def draw_interval(drawn: float, longest: int, *, power: float = 1.0, density: Intervals = "decreasing") -> int:
    """Frames between the starts of two clips: the inverse of the distribution, rounded down.

    Args:
        drawn: u in [0, 1).
        longest: M > 0; the interval is in [0, M).
        power: of the decreasing density, see `interval_cdf`; "increasing" is its mirror image.
        density: "decreasing" is the paper's choice, the others are its ablations.
    """
    if density == "uniform":
        share = drawn
    elif density == "increasing":
        share = 1.0 - _inverse(1.0 - drawn, power)
    else:
        share = _inverse(drawn, power)
    return min(int(longest * share), longest - 1)


def _inverse(drawn: float, power: float) -> float:
    """Interval as a share of the longest."""
    if power == 1.0:
        return 1.0 - math.sqrt(max(0.0, 1.0 - drawn))
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if interval_cdf(middle, 1.0, power=power) <= drawn else (low, middle)
    return low


def two_starts(
    frames: int,
    length: int,
    stride: int,
    *,
    interval: float,
    places: tuple[float, float],
    power: float = 1.0,
    density: Intervals = "decreasing",
) -> Starts:
    """First frames of two clips of one film, the second never before the first.

    With M = frames - (length - 1) stride, the number of starts, the interval is drawn below M and the first start below
    M - interval. Where a clip does not fit, or has one frame, both starts are drawn independently among all frames.

    Args:
        frames: of the film.
        length: frames of a clip.
        stride: frames from one frame of a clip to the next.
        interval: number in [0, 1) that becomes the interval.
        places: numbers in [0, 1) that become the starts; the second counts only where the interval does not.
        power, density: see `draw_interval`.
    """
    span = (length - 1) * stride
    starts = frames - span if frames > span else frames
    if starts == frames:
        return Starts(_place(places[0], frames), _place(places[1], frames), frames)
    apart = draw_interval(interval, starts, power=power, density=density)
    first = _place(places[0], starts - apart)
    return Starts(first, first + apart, starts - apart)


def _place(drawn: float, bound: int) -> int:
    return min(int(drawn * bound), bound - 1)


def frame_numbers(start: int, length: int, stride: int, frames: int) -> np.ndarray:
    """(length,) numbers of the frames of a clip; a film that is too short begins again."""
    return (start + stride * np.arange(length)) % frames


def evenly_spaced(frames: int, count: int) -> np.ndarray:
    """(count,) numbers of the frames in the middle of `count` equal parts of a film; they repeat in a short one."""
    return (frames * (2 * np.arange(count) + 1)) // (2 * count)
