"""Sum of softplus over a similarity matrix that is never held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from counterpoint.losses.sharing import party_for
from counterpoint.losses.tiles import Similarity, first_order

__all__ = ["sum_softplus"]

SAFE_LOGIT = 50.0
"""Above it log(1 + exp(logit)) is the logit, to rounding, in any precision."""


class _SumSoftplus(torch.autograd.Function):
    """(query, key, scale, bias, skip) -> sum over all pairs of log(1 + exp(logit)).

    A pair's gradient, sigmoid(logit), depends on that pair alone: it is taken in the same visit as the value.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, skip: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad
        of_query = torch.zeros_like(query) if needs[0] or needs[2] else None
        of_key = torch.zeros_like(key) if needs[1] else None
        of_bias = query.new_zeros(())
        party = party_for(len(query) * len(key))
        problem = Similarity(query, key, float(scale), bias.reshape(1).expand(len(key)), skip, party=party)

        def visited() -> tuple[Tensor]:
            nonlocal of_bias
            total = query.new_zeros(())
            buffer = problem.buffer()
            scratch = problem.scratch()
            for rows, columns in problem.tiles():
                tile = problem.logits(rows, columns, buffer)  # (n, m)
                for _, strip in problem.strips(tile, rows.start):
                    total += _softplus(strip, scratch[: strip.numel()].view_as(strip))
                    if any(needs):
                        of_bias += strip.sigmoid_().sum()
                if of_query is not None:
                    of_query[rows].addmm_(tile, key[columns])
                if of_key is not None:
                    of_key[columns].addmm_(tile.T, query[rows])
            return (total,)

        with torch.autocast(query.device.type, enabled=False):
            (total,) = party.summed(visited)
        of_scale = None if of_query is None else (query * of_query).sum()
        ctx.factor, ctx.members = float(scale), party.members
        ctx.save_for_backward(of_query, of_key, of_scale, of_bias)
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0] * ctx.members  # of its own tiles, times the number of members: see `sharing`
        of_query, of_key, of_scale, of_bias = ctx.saved_tensors
        of_rows = [None if of_rows is None else of_rows * (gradient * ctx.factor) for of_rows in (of_query, of_key)]
        return *of_rows, None if of_scale is None else of_scale * gradient, of_bias * gradient, None


def _softplus(tile: Tensor, scratch: Tensor) -> Tensor:
    """Sum of log(1 + exp(tile))."""
    torch.clamp(tile, max=SAFE_LOGIT, out=scratch).exp_().log1p_()
    total = scratch.sum()
    return total + torch.sub(tile, SAFE_LOGIT, out=scratch).clamp_(min=0).sum()


def sum_softplus(query: Tensor, key: Tensor, *, scale: Tensor, bias: Tensor, skip: Tensor | None) -> Tensor:
    """Sum of log(1 + exp(scale * query @ key.T + bias)) over all pairs but those in `skip`.

    Args:
        query: (N, D) float32 or float64.
        key: (M, D), of the same dtype.
        scale: 0-d.
        bias: 0-d.
        skip: (N, S) int64, the columns that are left out of row i, or None.

    Returns:
        0-d.
    """
    result: Tensor = _SumSoftplus.apply(query, key, scale, bias, skip)
    return result
