"""Coordinates that follow known attributes: rows of like attribute lie near each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_rows, same_width
from counterpoint.losses.tiles import Similarity, first_order, working_dtype

__all__ = ["attribute_alignment"]


class _WeightedSquares(torch.autograd.Function):
    """(latents (N, K), attributes (N, K), bandwidth or None) -> sum over i < j and k of w(y_ik - y_jk) (x_ik - x_jk)^2.

    A pair's gradient depends on that pair alone: it is taken in the same visit as the value.
    """

    @staticmethod
    def forward(ctx: Any, latents: Tensor, attributes: Tensor, bandwidth: Tensor | None) -> Tensor:
        gradient, total = torch.zeros_like(latents), latents.new_zeros(())
        with torch.autocast(latents.device.type, enabled=False):
            for above, left in Similarity(latents, latents, 1.0, None, None, within=True).tiles():
                for k in range(latents.shape[1]):
                    difference = latents[above, k][:, None] - latents[left, k]  # (n, m)
                    apart = attributes[above, k][:, None] - attributes[left, k]
                    weight = (apart == 0).to(latents) if bandwidth is None else (apart.square() / -bandwidth / 2).exp()
                    pull = weight * difference
                    if above == left:  # holds every pair twice
                        total += (pull * difference).sum() / 2
                    else:
                        total += (pull * difference).sum()
                        gradient[left, k] -= 2 * pull.sum(0)
                    gradient[above, k] += 2 * pull.sum(1)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (found,) = ctx.saved_tensors
        return found * gradients[0], None, None


def attribute_alignment(latents: Tensor, attributes: Tensor, *, bandwidth: float | Tensor | None) -> Tensor:
    """Mean squared difference of pairs, weighted by how alike their attributes are (SepCLR, arXiv 2402.11928).

    One coordinate for each attribute, with b = bandwidth::

        loss = mean_k mean_{i < j} w_ijk (x_ik - x_jk)^2,    w_ijk = exp(-(y_ik - y_jk)^2 / (2 b)), or 1[y_ik = y_jk]

    The mean is over all pairs, of whatever weight; a batch of one has none and the value 0. Nothing is normalised
    inside; memory is linear in N, time quadratic.

    Args:
        latents: (N, K). float64, float32, bfloat16 or float16 (accumulated in float32).
        attributes: (N, K) floating, without gradient.
        bandwidth: b > 0, in squared units of the attribute and without gradient; None weighs equal attributes alone.

    Returns:
        0-d, float32 (float64 for float64 latents), at least 0.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `bandwidth` not positive.

    Example:
        >>> rows = torch.tensor([[0.0], [1.0], [5.0]])
        >>> float(attribute_alignment(rows, torch.tensor([[2.0], [2.0], [7.0]]), bandwidth=None) * 3)
        1.0
    """
    matrix(latents=latents, attributes=attributes)
    same_rows(latents=latents, attributes=attributes)
    same_width(latents=latents, attributes=attributes)
    values = latents.to(working_dtype(latents, attributes))
    known = attributes.detach().to(values)
    width = None if bandwidth is None else positive_scalar("bandwidth", bandwidth, like=values).detach()
    pairs = max(len(values) * (len(values) - 1) // 2, 1)
    total: Tensor = _WeightedSquares.apply(values, known, width)
    loss = total / (pairs * values.shape[1]) + 0.0 * known.sum()  # a NaN equals nothing and must not pass as such
    return finite_loss(loss, latents=latents, attributes=attributes)
