"""Joint entropy of two sets of coordinates: how evenly their pairs fill the product of both spaces."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_rows
from counterpoint.losses.tiles import Similarity, first_order, working_dtype

__all__ = ["joint_entropy"]


def _kernels(problem: Similarity, rows: slice, columns: slice, buffer: Tensor) -> Tensor:
    """(n, m) values exp(-scale / 2 |z_i - z_j|^2) of a tile, in `buffer`; a row's own is 1.

    `problem.bias` holds -scale / 2 |z_j|^2.
    """
    assert problem.bias is not None
    tile = problem.logits(rows, columns, buffer).add_(problem.bias[rows][:, None])
    if rows == columns:
        tile.diagonal().mul_(0.0)  # no difference of large numbers; a NaN stays one
    return tile.clamp_(max=0.0).exp_()


class _LogKernelSums(torch.autograd.Function):
    """(rows (N, D), scale) -> log sum_j exp(-scale / 2 |z_i - z_j|^2) (N,); half of the matrix is visited.

    Every sum holds the row itself and lies in [1, N], so nothing over- or underflows at any scale.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor) -> Tensor:
        sums = rows.new_zeros(len(rows))
        with torch.autocast(rows.device.type, enabled=False):
            problem = _problem(rows, scale)
            buffer = problem.buffer()
            for above, left in problem.tiles():
                tile = _kernels(problem, above, left, buffer)  # (n, m)
                sums[above] += tile.sum(1)
                if above != left:
                    sums[left] += tile.sum(0)
        ctx.save_for_backward(rows, scale, sums)
        return sums.log()

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows, scale, sums = ctx.saved_tensors
        share = gradients[0] / sums  # (N,)
        pulled, weight = torch.zeros_like(rows), torch.zeros_like(sums)
        with torch.autocast(rows.device.type, enabled=False):
            problem = _problem(rows, scale)
            buffer = problem.buffer()
            for above, left in problem.tiles():
                tile = _kernels(problem, above, left, buffer)  # (n, m)
                tile.mul_(share[above][:, None] + share[left][None])  # a kernel counts in the sums of both its rows
                if above == left:
                    tile.fill_diagonal_(0.0)
                pulled[above].addmm_(tile, rows[left])
                weight[above] += tile.sum(1)
                if above != left:
                    pulled[left].addmm_(tile.T, rows[above])
                    weight[left] += tile.sum(0)
            towards = pulled.sub_(weight[:, None] * rows)  # (N, D) sum_j w_ij (z_j - z_i)
            # sum over pairs of -w_ij |z_i - z_j|^2 / 2
            of_scale = (rows * towards).sum() / 2
        return towards * scale, of_scale


def _problem(rows: Tensor, scale: Tensor) -> Similarity:
    factor = float(scale)
    return Similarity(rows, rows, factor, rows.square().sum(1) * (-factor / 2), None, within=True)


def joint_entropy(first: Tensor, second: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Kernel estimate of the entropy of row pairs (minus the k-JEM loss of SepCLR, arXiv 2402.11928).

    With the Gaussian kernel of both spaces, and the pair itself among the N::

        H = -1/N sum_i log( 1/N sum_j exp(-|a_i - a_j|^2 / (2 t)) exp(-|b_i - b_j|^2 / (2 t)) )

    As H(a, b) = H(a) + H(b) - I(a; b), a large H beside the large entropies of both spaces means that one says little
    about the other. The paper minimises -H, its k-JEM term. Nothing is normalised or detached inside; memory is linear
    in N, and only half of the symmetric matrix is computed.

    Args:
        first: (N, D), one space. float64, float32, bfloat16 or float16 (accumulated in float32).
        second: (N, E), the other one; row i of both belongs to one example.
        temperature: t > 0, the variance of the kernel; a number or a 0-d tensor with gradient.

    Returns:
        0-d, float32 (float64 for float64 rows), from 0 (all pairs alike) to ln N (all far from each other).

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `temperature` not positive.

    Example:
        >>> round(float(joint_entropy(torch.eye(4), torch.zeros(4, 1), temperature=0.01)), 4)
        1.3863
    """
    matrix(first=first, second=second)
    same_rows(first=first, second=second)
    dtype = working_dtype(first, second)
    pairs = torch.cat([first.to(dtype), second.to(dtype)], dim=1)  # (N, D + E)
    pairs = pairs - pairs.detach().mean(0)  # distances stay, and lengths are no longer than they need be
    scale = 1.0 / positive_scalar("temperature", temperature, like=pairs)
    sums: Tensor = _LogKernelSums.apply(pairs, scale)
    return finite_loss(math.log(len(pairs)) - sums.mean(), first=first, second=second)
