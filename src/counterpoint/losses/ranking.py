"""Scores that should fall from column to column, by margins."""

from __future__ import annotations

from torch import Tensor

from counterpoint.losses.checks import finite_loss, matrix, scalar
from counterpoint.losses.tiles import working_dtype

__all__ = ["ranking_hinge"]


def ranking_hinge(scores: Tensor, *, large: float, small: float) -> Tensor:
    """Hinges on the order of K scores a row, the highest first (Liang et al. 2023, eq. 6 and 7).

    With h(a, b, m) = mean max(0, s_b - s_a + m)::

        loss = h(0, K-1, large) [K > 2]  +  h(0, 1, large)  +  sum_{k=1}^{K-2} h(k, k+1, small)

    Columns are the backlit picture, results from the oldest to the newest, and the well-lit picture. Where the score
    of a guesser is the same everywhere the loss is the sum of the margins.

    Args:
        scores: (N, K), K >= 2. float64, float32, bfloat16 or float16 (accumulated in float32).
        large: how far the first column lies above the second and above the last.
        small: how far every other column lies above its right neighbour.

    Returns:
        0-d, float32 (float64 for float64 scores), at least 0.

    Raises:
        TypeError: scores that are not floating point, or margins that are no numbers.
        ValueError: fewer than two columns, no rows, a NaN, a margin that is not finite.

    Example:
        >>> import torch
        >>> round(float(ranking_hinge(torch.tensor([[1.0, 0.5, 0.0]]), large=0.75, small=0.25)), 6)
        0.25
    """
    matrix(scores=scores)
    if scores.shape[1] < 2:
        raise ValueError(f"scores must have at least two columns, the higher first, got shape {tuple(scores.shape)}")
    values = scores.to(working_dtype(scores))
    far, near = (scalar(name, margin, like=values) for name, margin in (("large", large), ("small", small)))
    falls = values[:, :-1] - values[:, 1:]  # (N, K - 1)
    loss = (far - falls[:, 0]).clamp(min=0).mean() + (near - falls[:, 1:]).clamp(min=0).mean(dim=0).sum()
    if values.shape[1] > 2:
        loss = loss + (far - (values[:, 0] - values[:, -1])).clamp(min=0).mean()
    return finite_loss(loss + 0.0 * values.sum(), scores=scores)  # a hinge does not see every infinity
