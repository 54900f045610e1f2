"""Two views of a picture of which square patches are hidden from one of two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from counterpoint.data import Row
from counterpoint.views.image import TwoViews

__all__ = ["MaskedViews"]


@dataclass(frozen=True)
class MaskedViews(TwoViews):
    """Two views of a picture, and which square patches of each a student sees.

    Attributes:
        patch: side of a patch, in pixels.
        masked: share of the patches that is hidden from the student, on average.
        masked_spread: the share is drawn anew for every view from [masked - spread, masked + spread].

    Returns of a call: besides `first` and `second` (3, size, size) their `first_seen` and `second_seen` (1, P, P),
    0 where a patch is hidden and else 1.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    patch: int = 16
    masked: float = 0.15
    masked_spread: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(f"patch must divide the size {self.size}, got {self.patch}")
        if not 0 <= self.masked_spread <= self.masked or self.masked + self.masked_spread > 1:
            raise ValueError(f"masked +- masked_spread must lie in [0, 1]; got {self.masked} +- {self.masked_spread}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> two views with their masks."""
        views, side = super().__call__(row, rng), self.size // self.patch
        for name in ("first", "second"):
            share = self.masked + self.masked_spread * (2 * rng.random() - 1)
            seen = np.ones(side * side, dtype=np.float32)
            seen[rng.permutation(side * side)[: round(share * side * side)]] = 0
            views[f"{name}_seen"] = torch.from_numpy(seen.reshape(1, side, side))
        return views
