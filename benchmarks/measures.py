"""Arithmetic of the results: medians, ratios with their intervals, shares of a limit, and verdicts on bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.work import OURS, Bar

RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": float(np.median(values)), "least": float(min(values)), "most": float(max(values))}


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """median(above) / median(below) with a 95 % bootstrap interval.

    The rounds are resampled, the same ones on both sides: what slowed a round down slowed both. A side that lost
    rounds (a crash) is resampled by itself.
    """
    first, second = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    rng = np.random.default_rng(0)
    rounds = rng.integers(0, len(first), (RESAMPLES, len(first)))
    others = rounds if len(first) == len(second) else rng.integers(0, len(second), (RESAMPLES, len(second)))
    drawn = np.median(first[rounds], axis=1) / np.median(second[others], axis=1)
    low, high = np.percentile(drawn, INTERVAL)
    return {"ratio": float(np.median(first) / np.median(second)), "low": float(low), "high": float(high)}


def inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    """The ratio the other way round."""
    return {"ratio": 1 / ratio["ratio"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}


def share_of_limit(flops: float | None, seconds: float, gigaflops: float | None) -> float | None:
    """Seconds that the matrix products alone would take at the measured rate, as a share of the seconds taken."""
    if flops is None or not gigaflops:
        return None
    return flops / (gigaflops * 1e9) / seconds


def share_of_copies(moved: float | None, seconds: float, gigabytes: float | None) -> float | None:
    """Seconds that writing so many bytes would take at the measured rate of copies, as a share of the seconds taken.

    A copy of n bytes reads and writes them: it counts 2 n, a result that is only written n.
    """
    if moved is None or not gigabytes:
        return None
    return moved / (gigabytes * 1e9) / seconds


def failed(side: Mapping[str, Any] | None) -> bool:
    """Whether a side has no times."""
    return side is None or not side.get("seconds")


def compared(case: Mapping[str, Any], ours: str, peer: str, what: str) -> dict[str, float] | None:
    """Ratio ours / peer of "seconds" or "megabytes"; None where either is missing."""
    sides = case["sides"]
    if ours not in sides or peer not in sides:
        return None
    first, second = ([value for value in sides[name].get(what, []) if value is not None] for name in (ours, peer))
    if not first or not second or not np.median(second) > 0:
        return None
    return ratio_of_medians(first, second)


def reached(case: Mapping[str, Any], bar: Bar) -> dict[str, float] | None:
    """The figure that a bar is about: {"ratio"} and perhaps an interval, or None where it was not measured."""
    side = case["sides"].get(bar.side)
    if failed(side):
        return None
    assert side is not None
    peer = bar.peer or next((name for name in case["sides"] if not name.startswith(OURS)), None)
    if bar.measure in ("time", "memory", "speed"):
        what = "megabytes" if bar.measure == "memory" else "seconds"
        found = compared(case, bar.side, peer, what) if peer else None
        return inverse(found) if found and bar.measure == "speed" else found
    if bar.measure in ("seconds", "megabytes"):
        values = [value for value in side[bar.measure] if value is not None]
        return {"ratio": float(np.median(values))} if values else None
    if bar.measure == "limit":
        share = side.get("share")
        return None if share is None else {"ratio": share}
    value = side.get("facts", {}).get(bar.measure)
    return None if value is None else {"ratio": float(value)}


def verdict(case: Mapping[str, Any], bar: Bar) -> str:
    """ "met", "missed" or "not measured"; "met?" and "missed?" where the interval lies on both sides of the bar."""
    found = reached(case, bar)
    if found is None or not math.isfinite(found["ratio"]):
        return "not measured"
    holds = [_holds(bar, found[name]) for name in ("ratio", "low", "high") if name in found]
    word = "met" if holds[0] else "missed"
    return word if len(set(holds)) == 1 else f"{word}?"


def _holds(bar: Bar, value: float) -> bool:
    if bar.at_most is not None:
        return value <= bar.at_most
    assert bar.at_least is not None, f"bar on {bar.measure} has neither at_most nor at_least"
    return value >= bar.at_least
