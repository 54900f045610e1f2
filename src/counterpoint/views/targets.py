"""Views of a row with the number that is to be learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from counterpoint.data import BadRow, Row
from counterpoint.views.image import TwoViews

__all__ = ["TargetViews", "finite_number", "target_of"]


def finite_number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def target_of(row: Row) -> float:
    """The row's target.

    Raises:
        BadRow: it has none, or one that is no finite number.
    """
    target = finite_number(row.get("target"))
    if target is None:
        raise BadRow(f"its target must be a finite number, got {row.get('target')!r}")
    return target


@dataclass(frozen=True)
class TargetViews:
    """Two views of the picture, its target, and a number from which the mixing coefficients of its batch are drawn."""

    pictures: TwoViews

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"first", "second": (3, s, s), "target": (), "draw": ()}; a row without a target is a bad one."""
        target, draw = target_of(row), int(rng.integers(2**32))
        return {**self.pictures(row, rng), "target": torch.tensor(target), "draw": torch.tensor(draw)}
