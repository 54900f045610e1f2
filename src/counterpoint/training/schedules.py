"""The learning rate as a pure function of progress, so that steps and time limits work alike."""

from __future__ import annotations

import math

__all__ = ["learning_rate_factor"]


def learning_rate_factor(
    progress: float, *, schedule: str, warmup: float = 0.0, floor: float = 0.0, stride: float = 0.0
) -> float:
    """Factor of the learning rate at `progress` through the run.

    Linear warm-up, then "cosine": floor + (1 - floor) (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, eq. 5, one
    cycle), "linear": from 1 to floor, or "constant", where t in [0, 1] is the progress after the warm-up.

    Args:
        progress: share of the run that is done before this step, in [0, 1].
        schedule: "cosine", "linear" or "constant".
        warmup: share of the run that the warm-up takes, in [0, 1).
        floor: final learning rate over the highest, at least 0.
        stride: what this step adds to the progress; lets the first step of a warm-up move (0 when not known).

    Returns:
        The factor; in [min(floor, 1), max(floor, 1)] after the warm-up.

    Raises:
        ValueError: an unknown schedule.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return min(1.0, (progress + stride) / warmup)
    after = (progress - warmup) / (1.0 - warmup) if warmup < 1.0 else 1.0
    if schedule == "cosine":
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * after))
    if schedule == "linear":
        return floor + (1.0 - floor) * (1.0 - after)
    if schedule == "constant":
        return 1.0
    raise ValueError(f"schedule must be cosine, linear or constant, got {schedule!r}")
