"""Views of pictures from two data sets that are contrasted with each other, a background and a target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from counterpoint.data import BadRow, Row, Rows
from counterpoint.views.image import TwoViews

__all__ = ["SourceViews"]


@dataclass(frozen=True)
class SourceViews:
    """Two views of a picture, whether its row is of the target, and the attributes that are known of a target row.

    Attributes:
        pictures: distortions of the two views.
        target: value of the column `source` in rows of the target; any other is background.
        attributes: columns with numbers.
    """

    pictures: TwoViews
    target: str
    attributes: tuple[str, ...] = ()

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"first", "second": (3, s, s), "target": () bool, "attributes": (K,), zero in the background}.

        Raises:
            BadRow: a target row without a number in a column of `attributes`.
        """
        target, values = row["source"] == self.target, [0.0] * len(self.attributes)
        for place, name in enumerate(self.attributes if target else ()):
            try:
                values[place] = float(row[name])
            except (KeyError, TypeError, ValueError):
                raise BadRow(f"a target row needs a number in {name!r}, got {row.get(name)!r}") from None
            if not math.isfinite(values[place]):
                raise BadRow(f"a target row needs a finite number in {name!r}, got {values[place]}")
        return {**self.pictures(row, rng), "target": torch.tensor(target), "attributes": torch.tensor(values)}

    def names(self, rows: Rows) -> list[str]:
        """Values of the column `source`, in order.

        Raises:
            ValueError: no row is of the target, or every row is.
        """
        found = sorted({str(name) for name in rows.column("source")})
        if self.target not in found or len(found) < 2:
            raise ValueError(
                f"source must be {self.target!r} in some rows and not in others, found {', '.join(found)}: name two "
                f"data sets, background=PATH {self.target}=PATH, or set target to the name of yours"
            )
        return found
