"""Checks at the door of the measures: shapes, types and finite values, with the fix in the message."""

from __future__ import annotations

from torch import Tensor

__all__ = ["check_features"]


def check_features(name: str, features: Tensor, labels: Tensor | None = None) -> None:
    """Refuse vectors that no measure can use.

    Raises:
        TypeError: integer vectors or fractional labels.
        ValueError: not (N, D), empty, not finite, or another number of labels than rows.
    """
    if not features.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {features.dtype}: call .float()")
    if features.dim() != 2:
        raise ValueError(f"{name} must be (N, D), got shape {tuple(features.shape)}")
    if len(features) == 0:
        raise ValueError(f"{name} has no rows")
    if not bool(features.isfinite().all()):
        row = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"{name} has values that are not finite, first in row {row}: leave such rows out")
    if labels is None:
        return
    if labels.is_floating_point():
        raise TypeError(f"{name} labels must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"{name} has {len(features)} rows but its labels have shape {tuple(labels.shape)}")
    if int(labels.min()) < 0:
        raise ValueError(f"{name} labels must not be negative, got {int(labels.min())}")
