"""Maps of where the centres of things lie, and the focal loss that teaches them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import all_finite, floating, same_rows
from counterpoint.losses.tiles import working_dtype

__all__ = ["centre_focal_error", "centre_map"]


def centre_map(
    centres: Tensor, labels: Tensor, *, spread: Tensor, classes: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """One at the cell of every centre, falling off around it like a Gaussian (Zhou et al. 2019; Yin et al. 2021).

    Where things of a class are near each other, the larger value counts.

    Args:
        centres: (N, M, 2), x and y in cells; the cell of (0.5, 0.5) is the first.
        labels: (N, M), whole numbers in [0, K); -1 where a row has fewer things.
        spread: (N, M), standard deviation, in cells, above 0.
        classes: K.
        size: (h, w) of the map; y goes down, x across.

    Returns:
        Map (N, K, h, w) in [0, 1], and the cells (N, M) of the centres, counted row by row; -1 for things that are none
        or lie beyond the map.
    """
    height, width = size
    across, down = centres.floor().long().unbind(2)  # (N, M) each
    inside = (labels >= 0) & (across >= 0) & (across < width) & (down >= 0) & (down < height)
    x, y = torch.arange(width, device=centres.device), torch.arange(height, device=centres.device)
    rows = torch.zeros(len(centres), classes, height, width, dtype=centres.dtype, device=centres.device)
    for row, thing in inside.nonzero().tolist():
        distance = (x - across[row, thing]).square() + (y - down[row, thing]).square()[:, None]  # (h, w)
        bump = torch.exp(-distance / (2 * spread[row, thing].square()))
        place = rows[row, int(labels[row, thing])]
        torch.maximum(place, bump, out=place)
    return rows, torch.where(inside, down * width + across, -1)


def centre_focal_error(scores: Tensor, heat: Tensor) -> tuple[Tensor, Tensor]:
    """Penalty-reduced focal loss (Law and Deng 2018, eq. 1; Zhou et al. 2019), summed, and what it is divided by.

    With p = sigmoid(score) and y the map: -(1 - p)^2 log p where y = 1, and -(1 - y)^4 p^2 log(1 - p) elsewhere. It
    is divided by the number of centres and maps together: the published codes divide by the centres alone, or by 1
    where there is none, which would differ with the number of processes.

    Args:
        scores: (N, K, h, w), logits. float64, float32, bfloat16 or float16 (computed in float32).
        heat: (N, K, h, w) in [0, 1], exactly 1 at centres (`centre_map`).

    Returns:
        Sum and number, both 0-d, float32 (float64 for float64 scores).

    Raises:
        TypeError: arguments that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN.

    Example:
        >>> heat = torch.zeros(1, 1, 2, 2)
        >>> heat[0, 0, 0, 0] = 1.0
        >>> total, count = centre_focal_error(torch.zeros(1, 1, 2, 2), heat)
        >>> round(float(total), 4), float(count)
        (0.6931, 2.0)
    """
    for name, value in (("scores", scores), ("heat", heat)):
        floating(name, value)
        if value.dim() != 4 or value.numel() == 0:
            raise ValueError(
                f"{name} must have shape (N, K, h, w) with at least one row, class and cell, got {tuple(value.shape)}"
            )
    same_rows(scores=scores, heat=heat)
    if scores.shape != heat.shape:
        raise ValueError(f"scores and heat must have the same shape, got {tuple(scores.shape)} and {tuple(heat.shape)}")
    values, target = scores.to(working_dtype(scores)), heat.to(working_dtype(scores))
    all_finite(scores=values, heat=target)
    with torch.autocast(scores.device.type, enabled=False):
        centre = target == 1
        hit = -(1 - values.sigmoid()).square() * logsigmoid(values)
        miss = -(1 - target).pow(4) * values.sigmoid().square() * logsigmoid(-values)
        total = torch.where(centre, hit, miss).sum()
    return total, centre.sum().to(total.dtype) + len(values)
