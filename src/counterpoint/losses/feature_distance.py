"""How far feature maps moved: keeps an edited picture's content."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, floating
from counterpoint.losses.tiles import working_dtype

__all__ = ["feature_distance"]


def feature_distance(edited: Tensor, original: Tensor) -> Tensor:
    """Mean squared difference of each row's features (Liang et al. 2023, eq. 4, one stage).

    d_i = mean over the elements of row i of (edited - original)^2. CLIP-LIT's identity loss sums it over pictures and,
    weighted, over the stages of a network. Nothing is detached inside.

    Args:
        edited: (N, ...), at least one dimension more than rows. float64, float32, bfloat16 or float16 (accumulated in
            float32).
        original: of the same shape.

    Returns:
        (N,), float32 (float64 for float64 rows), at least 0.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: different shapes, no rows, a NaN row.

    Example:
        >>> feature_distance(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)).tolist()
        [5.0]
    """
    for name, value in (("edited", edited), ("original", original)):
        floating(name, value)
    if edited.shape != original.shape:
        shapes = f"{tuple(edited.shape)} and {tuple(original.shape)}"
        raise ValueError(f"edited and original must have the same shape, got {shapes}")
    if edited.dim() < 2 or edited.numel() == 0:
        raise ValueError(f"edited must have at least one row and one feature a row, got shape {tuple(edited.shape)}")
    dtype = working_dtype(edited, original)
    with torch.autocast(edited.device.type, enabled=False):
        distances = (edited.to(dtype) - original.to(dtype)).square().flatten(1).mean(dim=1)
    finite_loss(distances.sum(), edited=edited, original=original)
    return distances
