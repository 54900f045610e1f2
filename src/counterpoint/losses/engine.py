"""Log-sum-exp over a similarity matrix that is never held: tile by tile, the gradient recomputed per tile.

Every loss that sets positives against many (InfoNCE, NT-Xent, MoCo, CLIP, SupCon) is a positive logit, linear
in the batch, and a log-sum-exp over the other logits, quadratic in it. Only the second is here. Memory is
linear in the rows; the value and the gradient are those of the dense formula to rounding. One matrix product
forward; backward one to recompute the tile and one for each input that needs a gradient.

Two ways to exponentiate. As long as all log-sum-exps lie within `REACH` of one common level, exponentials are
taken relative to that level, and one of them serves rows and columns alike. Otherwise the maxima of every row
and of every column are subtracted, so nothing over- or underflows at any temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterpoint.losses.sharing import party_for
from counterpoint.losses.tiles import Similarity, first_order

__all__ = ["logsumexp_similarity", "logsumexp_within"]


REACH = {torch.float32: 60.0, torch.float64: 600.0}
"""How far a log-sum-exp may lie from the common level: what is too small beside it to be a number is too small to
count, and exp(+REACH), summed over any batch, is a number."""


def _finite(level: Tensor) -> Tensor:
    """-inf -> 0: the level of an empty sum, for which every exponential is zero anyway."""
    return level.masked_fill(level == float("-inf"), 0.0)


def _forward(problem: Similarity, columns_too: bool) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the rows, and of the columns; with `within` both are one."""
    reach = REACH[problem.query.dtype]
    bound = problem.upper_bound()
    if bound <= 2 * reach:  # not so for a NaN, which goes the careful way into the loss
        level = max(0.0, bound - reach)
        sums = problem.party.summed(lambda: _sums_at_level(problem, level, columns_too))
        smallest = min(float(total.min()) for total in (sums if columns_too else sums[:1]))
        if smallest >= math.exp(-reach):
            return sums[0].log() + level, sums[1].log() + level
    row, column = problem.party.logsumexp(lambda: _sums_above_peaks(problem, columns_too))
    return row, column


def _sums_at_level(problem: Similarity, level: float, columns_too: bool) -> tuple[Tensor, Tensor]:
    """Sums of exp(logit - level) over rows (N,) and columns (M,)."""
    of_rows = problem.query.new_zeros(len(problem.query))
    of_columns = of_rows if problem.within else problem.query.new_zeros(len(problem.key))
    buffer = problem.buffer()
    for rows, columns in problem.tiles():
        tile = problem.logits(rows, columns, buffer)  # (n, m)
        for part, strip in problem.strips(tile, rows.start):
            _exponentials(strip, level)
            of_rows[part] += strip.sum(1)
            if columns_too and not (problem.within and rows == columns):
                of_columns[columns] += strip.sum(0)
    return of_rows, of_columns


def _exponentials(tile: Tensor, level: float) -> Tensor:
    """exp(tile - level), in place."""
    return (tile.sub_(level) if level else tile).exp_()


def _sums_above_peaks(problem: Similarity, columns_too: bool) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of rows and columns with a running maximum for each."""
    of_rows = _Running(problem.query, len(problem.query))
    of_columns = of_rows if problem.within else _Running(problem.query, len(problem.key))
    buffer = problem.buffer()
    scratch = problem.scratch()
    for rows, columns in problem.tiles():
        tile = problem.logits(rows, columns, buffer)  # (n, m)
        for part, strip in problem.strips(tile, rows.start):
            of_rows.add(part, strip, 1, scratch)
            if columns_too and not (problem.within and rows == columns):
                of_columns.add(columns, strip, 0, scratch)
    return of_rows.result(), of_columns.result()


class _Running:
    """Log-sum-exp of some rows (or columns), tile by tile: log(total) + peak."""

    def __init__(self, like: Tensor, count: int) -> None:
        self.total = like.new_zeros(count)
        self.peak = like.new_full((count,), float("-inf"))

    def add(self, part: slice, tile: Tensor, axis: int, scratch: Tensor) -> None:
        """Take in the logits of a tile, which stay as they are."""
        before = self.peak[part]
        peak = torch.maximum(before, tile.amax(axis))
        shift = _finite(peak)
        scratch = scratch[: tile.numel()].view_as(tile)
        torch.sub(tile, shift.unsqueeze(axis), out=scratch).exp_()
        self.total[part] = self.total[part] * torch.exp(before - shift) + scratch.sum(axis)
        self.peak[part] = peak

    def result(self) -> Tensor:
        """-inf where nothing was added."""
        return self.total.log() + _finite(self.peak)


@dataclass
class _Upstream:
    """Log-sum-exp and its incoming gradient, of the rows and perhaps of the columns of the matrix."""

    row: Tensor
    row_gradient: Tensor
    column: Tensor
    column_gradient: Tensor | None

    def times(self, factor: int) -> _Upstream:
        """The same with larger incoming gradients."""
        column = None if self.column_gradient is None else factor * self.column_gradient
        return _Upstream(self.row, factor * self.row_gradient, self.column, column)

    def common_level(self) -> float | None:
        """A level within `REACH` of all log-sum-exps, or None."""
        levels = self.row if self.column_gradient is None else torch.cat([self.row, self.column])
        empty = levels == float("-inf")
        low = float(levels.masked_fill(empty, float("inf")).min())
        high = float(levels.max())
        reach = REACH[levels.dtype]
        if -reach <= low and high <= reach:
            return 0.0
        return (low + high) / 2 if 0.0 <= high - low <= 2 * reach else None

    def at_level(self, tile: Tensor, rows: slice, columns: slice, scratch: Tensor, level: float) -> None:
        """Logits -> their gradient, in place: g_i p_ij of the row softmax and g_j p_ij of the column one.

        p_ij = exp(logit - level) * exp(level - log-sum-exp), and the first factor is that of rows and columns.
        """
        share = _share(self.row[rows], self.row_gradient[rows], level)[:, None]  # (n, 1)
        if self.column_gradient is not None:
            of_columns = _share(self.column[columns], self.column_gradient[columns], level)[None]  # (1, m)
            share = torch.add(share, of_columns, out=scratch[: tile.numel()].view_as(tile))  # (n, m)
        _exponentials(tile, level).mul_(share)

    def below_sums(self, tile: Tensor, rows: slice, columns: slice, scratch: Tensor) -> None:
        """The same where no level is common: an exponential each for the row and for the column."""
        if self.column_gradient is not None:
            scratch = scratch[: tile.numel()].view_as(tile)
            torch.sub(tile, _finite(self.column[columns])[None], out=scratch).exp_()
            scratch.mul_(self.column_gradient[columns][None])
        tile.sub_(_finite(self.row[rows])[:, None]).exp_().mul_(self.row_gradient[rows][:, None])
        if self.column_gradient is not None:
            tile.add_(scratch)


def _share(sums: Tensor, gradient: Tensor, level: float) -> Tensor:
    """What exp(logit - level) is multiplied with: g * exp(level - log-sum-exp); 0 for an empty sum."""
    return (gradient * torch.exp(level - sums)).masked_fill(sums == float("-inf"), 0.0)


def _backward(problem: Similarity, upstream: _Upstream, needs: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Gradients of query, key (both without the factor `scale`) and bias; those not in `needs` are None.

    Those of this member's tiles, times the number of members: see `sharing`.
    """
    needs_query, needs_key, needs_bias = needs
    query = torch.zeros_like(problem.query) if needs_query else None
    key = query if problem.within else torch.zeros_like(problem.key) if needs_key else None
    bias = torch.zeros_like(problem.bias) if needs_bias and problem.bias is not None else None
    buffer = problem.buffer()
    scratch = problem.scratch()
    level = upstream.common_level()
    members = problem.party.members
    if members > 1:
        upstream = upstream.times(members)
    for rows, columns in problem.tiles():
        tile = problem.logits(rows, columns, buffer)  # (n, m)
        for part, strip in problem.strips(tile, rows.start):
            if level is None:
                upstream.below_sums(strip, part, columns, scratch)
            else:
                upstream.at_level(strip, part, columns, scratch, level)
        if query is not None:
            query[rows].addmm_(tile, problem.key[columns])
        if key is not None and not (problem.within and rows == columns):
            key[columns].addmm_(tile.T, problem.query[rows])
        if bias is not None and bias.dim() == 1:
            bias[columns] += tile.sum(0)
        elif bias is not None:
            bias[rows, columns] = tile
    return [query, key, bias]


class _LogSumExp(torch.autograd.Function):
    """(query, key, scale, bias, skip, columns too?) -> log-sum-exp of rows (N,) and of columns (M,)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        skip: Tensor | None,
        columns_too: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(query.device.type, enabled=False):
            problem = Similarity(query, key, float(scale), bias, skip, party=party_for(len(query) * len(key)))
            row, column = _forward(problem, columns_too)
        ctx.party = problem.party
        ctx.save_for_backward(query, key, scale, bias, skip, row, column)
        ctx.columns_too = columns_too
        return row, column

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, scale, bias, skip, row, column = ctx.saved_tensors
        needs = ctx.needs_input_grad
        factor = float(scale)
        with torch.autocast(query.device.type, enabled=False):
            problem = Similarity(query, key, factor, bias, skip, party=ctx.party)
            upstream = _Upstream(row, gradients[0], column, gradients[1] if ctx.columns_too else None)
            wanted = (needs[0] or needs[2], needs[1], needs[3])
            of_query, of_key, of_bias = _backward(problem, upstream, wanted)
            of_scale = None
            if of_query is not None:
                of_scale = (query * of_query).sum() if needs[2] else None
                of_query = of_query.mul_(factor) if needs[0] else None
            if of_key is not None:
                of_key.mul_(factor)
        return of_query, of_key, of_scale, of_bias, None, None


class _LogSumExpWithin(torch.autograd.Function):
    """(rows, scale, skip) -> log-sum-exp of each row against all rows; half of the matrix is visited."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, skip: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            party = party_for(len(rows) ** 2)
            problem = Similarity(rows, rows, float(scale), None, skip, within=True, party=party)
            level, _ = _forward(problem, columns_too=True)
        ctx.party = problem.party
        ctx.save_for_backward(rows, scale, skip, level)
        return level

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, skip, level = ctx.saved_tensors
        factor = float(scale)
        with torch.autocast(rows.device.type, enabled=False):
            problem = Similarity(rows, rows, factor, None, skip, within=True, party=ctx.party)
            upstream = _Upstream(level, gradients[0], level, gradients[0])
            found, _, _ = _backward(problem, upstream, (True, True, False))
            assert found is not None
            # A pair's logit counts in the gradient of both of its rows, hence half.
            of_scale = (rows * found).sum() / 2 if ctx.needs_input_grad[1] else None
        return found.mul_(factor), of_scale, None


def logsumexp_similarity(
    query: Tensor,
    key: Tensor,
    *,
    scale: Tensor,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    columns: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the rows, and with `columns` of the columns, of scale * query @ key.T + bias.

    Args:
        query: (N, D) float32 or float64.
        key: (M, D), of the same dtype.
        scale: 0-d.
        bias: (M,) or (N, M), -inf takes an entry out.
        skip: (N, S) int64, the columns that are left out of row i (and the row out of those columns).
        columns: also reduce the columns, from the same tiles.

    Returns:
        (N,) and (M,); -inf for an empty sum. The second means nothing without `columns`.
    """
    result: tuple[Tensor, Tensor] = _LogSumExp.apply(query, key, scale, bias, skip, columns)
    return result


def logsumexp_within(rows: Tensor, *, scale: Tensor, skip: Tensor) -> Tensor:
    """Log-sum-exp (N,) of each row of scale * rows @ rows.T without the columns in `skip` (N, S).

    `skip` must be symmetric: when i skips j, j skips i.
    """
    result: Tensor = _LogSumExpWithin.apply(rows, scale, skip)
    return result
