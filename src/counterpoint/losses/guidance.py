"""Losses that lead a picture's embedding away from one guide, or along a direction."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_width, scalar
from counterpoint.losses.tiles import working_dtype

__all__ = ["negative_probability", "residual_guidance"]


def negative_probability(image: Tensor, guides: Tensor, *, logit_scale: float | Tensor) -> Tensor:
    """Probability that each picture belongs to the first guide (Liang et al. 2023, eq. 2 and 3).

    With guides t_0 (what the picture should leave) and t_1, ...::

        p_i = exp(s <v_i, t_0>) / sum_k exp(s <v_i, t_k>)

    Its mean is CLIP-LIT's enhancement loss, a probability and no logarithm; its rows are the scores that
    `ranking_hinge` orders. Nothing is normalised or detached inside.

    Args:
        image: (N, D), usually unit rows. float64, float32, bfloat16 or float16 (accumulated in float32).
        guides: (K, D), usually unit rows.
        logit_scale: s > 0; a number or a 0-d tensor with gradient.

    Returns:
        (N,), float32 (float64 for float64 rows), in [0, 1].

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `logit_scale` not positive.

    Example:
        >>> pictures = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> negative_probability(pictures, torch.eye(2), logit_scale=100.0).tolist()
        [1.0, 0.5]
    """
    matrix(image=image, guides=guides)
    same_width(image=image, guides=guides)
    dtype = working_dtype(image, guides)
    with torch.autocast(image.device.type, enabled=False):
        rows = image.to(dtype)
        logits = positive_scalar("logit_scale", logit_scale, like=rows) * (rows @ guides.to(dtype).T)  # (N, K)
        probabilities = logits.softmax(dim=1)[:, 0]
    finite_loss(probabilities.sum(), image=image, guides=guides)
    return probabilities


def residual_guidance(image: Tensor, residual: Tensor, *, threshold: float | Tensor) -> Tensor:
    """Mean squared distance of the embeddings' share along a direction from a target (Gaintseva et al. 2024, eq. 4).

    loss = 1/N sum_i (<v_i, r> - threshold)^2: two-sided, so nothing is pushed beyond the target. Nothing is normalised
    or detached inside.

    Args:
        image: (N, D), usually unit rows. float64, float32, bfloat16 or float16 (accumulated in float32).
        residual: (1, D), the direction, usually of unit length.
        threshold: a number or a 0-d tensor.

    Returns:
        0-d, float32 (float64 for float64 rows), at least 0.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, more than one direction, no rows, a NaN row.

    Example:
        >>> float(residual_guidance(torch.eye(2), torch.tensor([[1.0, 0.0]]), threshold=0.5))
        0.25
    """
    matrix(image=image, residual=residual)
    same_width(image=image, residual=residual)
    if len(residual) != 1:
        raise ValueError(f"residual must have shape (1, D), one direction, got {tuple(residual.shape)}")
    dtype = working_dtype(image, residual)
    with torch.autocast(image.device.type, enabled=False):
        rows = image.to(dtype)
        shares = (rows * residual.to(dtype)).sum(dim=1)  # (N,)
        loss = (shares - scalar("threshold", threshold, like=rows)).square().mean()
    return finite_loss(loss, image=image, residual=residual)
