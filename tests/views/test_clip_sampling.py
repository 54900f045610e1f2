"""Where clips lie: the density of the interval between them, and the frames they take."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from counterpoint.views.clip_sampling import (
    Intervals,
    draw_interval,
    evenly_spaced,
    frame_numbers,
    interval_cdf,
    two_starts,
)

LONGEST = 30


def _density(kind: str, power: float) -> Callable[[float], float]:
    """Of the interval as a share of the longest, up to a factor."""
    falls = {
        "decreasing": lambda t: 1 - t**power,
        "uniform": lambda t: 1.0,
        "increasing": lambda t: 1 - (1 - t) ** power,
    }
    return falls[kind]


@pytest.mark.parametrize("kind", ["decreasing", "uniform", "increasing"])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_intervals_follow_their_density(kind: Intervals, power: float) -> None:
    """Every interval's share of evenly spread draws, against a sum over the density."""
    draws = (np.arange(60_000) + 0.5) / 60_000
    found = np.bincount(
        [draw_interval(u, LONGEST, power=power, density=kind) for u in draws.tolist()], minlength=LONGEST
    )
    fine = (np.arange(LONGEST * 400) + 0.5) / (LONGEST * 400)
    weights = np.array([_density(kind, power)(t) for t in fine.tolist()]).reshape(LONGEST, 400).sum(axis=1)
    np.testing.assert_allclose(found / len(draws), weights / weights.sum(), atol=1e-4)


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_the_distribution_is_the_integral_of_the_density(power: float) -> None:
    steps = (np.arange(20_000) + 0.5) / 20_000
    density = (power + 1) / power * (1 - steps**power)
    for place in (2_000, 10_000, 20_000):
        expected = float(density[:place].mean() * place / 20_000)
        assert interval_cdf(place / 20_000 * 7.0, 7.0, power=power) == pytest.approx(expected, abs=1e-6)
    assert interval_cdf(0.0, 7.0, power=power) == 0 and interval_cdf(7.0, 7.0, power=power) == pytest.approx(1)


def test_the_linear_density_has_a_closed_form() -> None:
    for drawn in np.random.default_rng(0).random(200).tolist():
        assert draw_interval(drawn, 57) == math.floor(57 * (1 - math.sqrt(1 - drawn)))
        assert draw_interval(drawn, 57) == draw_interval(drawn, 57, power=1.0 + 1e-12)
    assert draw_interval(math.nextafter(1.0, 0.0), 57) < 57


@pytest.mark.parametrize(("frames", "length", "stride"), [(40, 8, 2), (16, 8, 2), (15, 8, 2), (14, 8, 2), (9, 1, 3)])
def test_both_clips_lie_in_the_film(frames: int, length: int, stride: int) -> None:
    """Among M starts, or among all frames where a clip does not fit."""
    span = (length - 1) * stride
    fits = frames > span and length > 1
    rng = np.random.default_rng(1)
    seen = set()
    for interval, *places in rng.random((400, 3)).tolist():
        first, second, bound = two_starts(frames, length, stride, interval=interval, places=(places[0], places[1]))
        seen |= {first, second}
        if fits:
            assert 0 <= first <= second < frames - span
            assert bound == frames - span - (second - first) and first < bound
        else:
            assert bound == frames
            assert (first, second) == (int(places[0] * frames), int(places[1] * frames))
    assert seen == set(range(frames - span if fits else frames))


def test_short_films_begin_again() -> None:
    assert frame_numbers(3, 4, 2, 6).tolist() == [3, 5, 1, 3]
    assert frame_numbers(0, 3, 1, 1).tolist() == [0, 0, 0]


def test_evenly_spaced_frames_are_the_middles_of_equal_parts() -> None:
    for frames in (1, 2, 7, 8, 250):
        for count in (1, 3, 8):
            expected = [int((part + 0.5) * frames / count) for part in range(count)]
            assert evenly_spaced(frames, count).tolist() == expected
    assert evenly_spaced(21, 7).tolist() == [20 - n for n in evenly_spaced(21, 7)[::-1].tolist()], "alike backwards"
