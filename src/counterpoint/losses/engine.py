"""Log-sum-exp over a similarity matrix that is never held: tile by tile, with the gradient recomputed per tile.

Every loss that sets positives against many (InfoNCE, NT-Xent, MoCo, CLIP, SupCon) is a positive logit, linear in the
batch, and a log-sum-exp over the other logits, quadratic in it. Only the second is here. Memory is linear in the
rows; the value and the gradient are those of the dense formula to rounding. One matrix product forward; backward one
to recompute the tile and one for each input that needs a gradient.

Two ways to exponentiate. When all logits are known to be small from the rows' norms, exp() is taken as it stands
and one exponential serves rows and columns alike. Otherwise running maxima are subtracted, per row and per column, so
nothing overflows at any temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["logsumexp_similarity", "logsumexp_within", "sum_softplus", "tile_bounds", "working_dtype"]

TILE = 4096
"""Rows and columns of a tile (64 MB in float32). Smaller ones are no faster, and suffer when cores are shared: every
operation on a tile ends with the threads waiting for each other."""
TILE_WITHIN = 2048
"""The same for rows against themselves, where smaller tiles leave out more of the half that need not be visited."""
SAFE_LOGIT = 50.0
"""exp(+-50), summed over any batch and divided by such a sum, is far from the ends of float32."""


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 when any tensor is float64, else float32: half precision is accumulated in float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def tile_bounds(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(count)."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@dataclass
class _Problem:
    """What defines the logits: scale * query @ key.T + bias, without the entries of `skip`.

    Attributes:
        query: (N, D); key: (M, D), the same object as `query` when `within`.
        scale: factor of the products.
        bias: (M,) or (N, M), or None.
        skip: (N, S) columns left out of row i's sum, and of that column's sum.
        within: rows against themselves; only tiles on and above the diagonal are visited.
        bounded: every logit lies in [-SAFE_LOGIT, SAFE_LOGIT].
    """

    query: Tensor
    key: Tensor
    scale: float
    bias: Tensor | None
    skip: Tensor | None
    within: bool
    bounded: bool = field(init=False)

    def __post_init__(self) -> None:
        longest = [float(torch.linalg.vector_norm(rows, dim=1).max()) for rows in (self.query, self.key)]
        # A NaN fails the comparison and so takes the careful way, which hands it on to the loss.
        self.bounded = self.bias is None and abs(self.scale) * longest[0] * longest[1] <= SAFE_LOGIT

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of each tile; with `within`, both grids are the same and columns >= rows."""
        size = TILE_WITHIN if self.within else TILE
        for rows in tile_bounds(len(self.query), size):
            for columns in tile_bounds(len(self.key), size):
                if not self.within or columns.start >= rows.start:
                    yield rows, columns

    def buffer(self) -> Tensor:
        """Room for one tile, used for all of them."""
        size = TILE_WITHIN if self.within else TILE
        return self.query.new_empty(min(size, len(self.query)) * min(size, len(self.key)))

    def logits(self, rows: slice, columns: slice, buffer: Tensor) -> Tensor:
        """(n, m) logits of a tile, in `buffer`; skipped entries are -inf."""
        query, key = self.query[rows], self.key[columns]
        tile = buffer[: len(query) * len(key)].view(len(query), len(key))  # (n, m)
        torch.addmm(tile, query, key.T, beta=0, alpha=self.scale, out=tile)
        if self.bias is not None:
            tile += self.bias[columns] if self.bias.dim() == 1 else self.bias[rows, columns]
        if self.skip is not None:
            for column in (self.skip[rows] - columns.start).unbind(1):
                inside = (column >= 0) & (column < len(key))
                place = column.clamp(0, len(key) - 1)[:, None]  # (n, 1)
                tile.scatter_(1, place, tile.gather(1, place).masked_fill_(inside[:, None], float("-inf")))
        return tile


class _Sums:
    """Running log-sum-exp of some rows (or columns): log(total) + peak."""

    def __init__(self, like: Tensor, count: int, bounded: bool) -> None:
        self.total = like.new_zeros(count)
        self.peak = None if bounded else like.new_full((count,), float("-inf"))

    def add(self, part: slice, tile: Tensor, axis: int, buffer: Tensor) -> None:
        """Take in a tile: of exponentials when bounded, else of logits (which are kept as they are)."""
        if self.peak is None:
            self.total[part] += tile.sum(axis)
            return
        before = self.peak[part]
        peak = torch.maximum(before, tile.amax(axis))
        shift = _finite(peak)
        scratch = buffer[: tile.numel()].view_as(tile)
        torch.sub(tile, shift.unsqueeze(axis), out=scratch).exp_()
        self.total[part] = self.total[part] * torch.exp(before - shift) + scratch.sum(axis)
        self.peak[part] = peak

    def result(self) -> Tensor:
        """-inf where nothing was added."""
        return self.total.log() if self.peak is None else self.total.log() + _finite(self.peak)


def _finite(level: Tensor) -> Tensor:
    """-inf -> 0: the level of an empty sum, for which every exponential is zero anyway."""
    return level.masked_fill(level == float("-inf"), 0.0)


def _forward(problem: _Problem, want_rows: bool, want_columns: bool) -> tuple[Tensor, Tensor]:
    rows_sum = _Sums(problem.query, len(problem.query), problem.bounded)
    columns_sum = rows_sum if problem.within else _Sums(problem.query, len(problem.key), problem.bounded)
    buffer = problem.buffer()
    scratch = buffer if problem.bounded else torch.empty_like(buffer)
    for rows, columns in problem.tiles():
        tile = problem.logits(rows, columns, buffer)  # (n, m)
        if problem.bounded:
            tile.exp_()
        if want_rows:
            rows_sum.add(rows, tile, 1, scratch)
        if want_columns and not (problem.within and rows == columns):
            columns_sum.add(columns, tile, 0, scratch)
    return rows_sum.result(), columns_sum.result()


@dataclass
class _Upstream:
    """Log-sum-exp and its incoming gradient, of the rows and of the columns of the matrix."""

    row: Tensor
    column: Tensor
    row_gradient: Tensor | None
    column_gradient: Tensor | None

    def tile_gradient(self, tile: Tensor, rows: slice, columns: slice, scratch: Tensor, bounded: bool) -> Tensor:
        """Logits -> their gradient, in place: g_i p_ij of the row softmax plus g_j p_ij of the column softmax."""
        scratch = scratch[: tile.numel()].view_as(tile)
        if bounded:
            tile.exp_()
            row = None if self.row_gradient is None else _share(self.row[rows], self.row_gradient[rows])
            column = None if self.column_gradient is None else _share(self.column[columns], self.column_gradient[columns])
            if row is not None and column is not None:
                return tile.mul_(torch.add(row[:, None], column[None], out=scratch))
            if row is not None:
                return tile.mul_(row[:, None])
            assert column is not None
            return tile.mul_(column[None])
        if self.column_gradient is None:
            assert self.row_gradient is not None
            tile.sub_(_finite(self.row[rows])[:, None]).exp_()
            return tile.mul_(self.row_gradient[rows][:, None])
        torch.sub(tile, _finite(self.column[columns])[None], out=scratch).exp_()
        scratch.mul_(self.column_gradient[columns][None])
        if self.row_gradient is None:
            return tile.copy_(scratch)
        tile.sub_(_finite(self.row[rows])[:, None]).exp_()
        return tile.mul_(self.row_gradient[rows][:, None]).add_(scratch)


def _share(level: Tensor, gradient: Tensor) -> Tensor:
    """What an exponential is multiplied with: g / sum of exponentials; 0 for an empty sum."""
    return gradient * torch.exp(-_finite(level))


def _backward(problem: _Problem, upstream: _Upstream, needs: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Gradients of query, key (both without the factor `scale`) and bias; those not in `needs` are None."""
    needs_query, needs_key, needs_bias = needs
    query = torch.zeros_like(problem.query) if needs_query else None
    key = query if problem.within else torch.zeros_like(problem.key) if needs_key else None
    bias = torch.zeros_like(problem.bias) if needs_bias and problem.bias is not None else None
    buffer = problem.buffer()
    scratch = torch.empty_like(buffer)
    for rows, columns in problem.tiles():
        tile = problem.logits(rows, columns, buffer)
        tile = upstream.tile_gradient(tile, rows, columns, scratch, problem.bounded)  # (n, m)
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
    """(query, key, scale, bias, skip, rows?, columns?) -> log-sum-exp of rows (N,) and of columns (M,)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        skip: Tensor | None,
        rows: bool,
        columns: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(query.device.type, enabled=False):
            problem = _Problem(query, key, float(scale), bias, skip, within=False)
            row, column = _forward(problem, rows, columns)
        ctx.save_for_backward(query, key, scale, bias, skip, row, column)
        ctx.wanted = (rows, columns)
        return row, column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, scale, bias, skip, row, column = ctx.saved_tensors
        needs = ctx.needs_input_grad
        factor = float(scale)
        with torch.autocast(query.device.type, enabled=False):
            problem = _Problem(query, key, factor, bias, skip, within=False)
            upstream = _Upstream(row, column, *(g if w else None for g, w in zip(gradients, ctx.wanted, strict=True)))
            found = _backward(problem, upstream, (needs[0] or needs[2], needs[1], needs[3]))
            of_scale = None
            if needs[2] and found[0] is not None:
                of_scale = (query * found[0]).sum().to(scale).view_as(scale)
            of_query = found[0].mul_(factor) if needs[0] and found[0] is not None else None
            of_key = found[1].mul_(factor) if found[1] is not None else None
        return of_query, of_key, of_scale, found[2], None, None, None


class _LogSumExpWithin(torch.autograd.Function):
    """(rows, scale, skip) -> log-sum-exp of every row against all rows, half of the symmetric matrix visited."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, skip: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            problem = _Problem(rows, rows, float(scale), None, skip, within=True)
            level, _ = _forward(problem, True, True)
        ctx.save_for_backward(rows, scale, skip, level)
        return level

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, skip, level = ctx.saved_tensors
        factor = float(scale)
        with torch.autocast(rows.device.type, enabled=False):
            problem = _Problem(rows, rows, factor, None, skip, within=True)
            upstream = _Upstream(level, level, gradients[0], gradients[0])
            found, _, _ = _backward(problem, upstream, (True, True, False))
            assert found is not None
            # Every unordered pair gave its logit's gradient to both of its rows: half of rows . gradient is the sum.
            of_scale = (rows * found).sum().div(2).to(scale).view_as(scale) if ctx.needs_input_grad[1] else None
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
    result: tuple[Tensor, Tensor] = _LogSumExp.apply(query, key, scale, bias, skip, True, columns)
    return result


def logsumexp_within(rows: Tensor, *, scale: Tensor, skip: Tensor) -> Tensor:
    """Log-sum-exp (N,) of each row of scale * rows @ rows.T without the columns in `skip` (N, S).

    `skip` must be symmetric: when i skips j, j skips i.
    """
    result: Tensor = _LogSumExpWithin.apply(rows, scale, skip)
    return result


class _SumSoftplus(torch.autograd.Function):
    """(query, key, scale, bias, skip) -> sum over all pairs of log(1 + exp(logit)).

    A pair's gradient, sigmoid(logit), depends on that pair alone: it is taken in the same visit as the value.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, skip: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad
        of_query = torch.zeros_like(query) if needs[0] or needs[2] else None
        of_key = torch.zeros_like(key) if needs[1] else None
        total, of_bias = query.new_zeros(()), query.new_zeros(())
        with torch.autocast(query.device.type, enabled=False):
            problem = _Problem(query, key, float(scale), bias.reshape(1).expand(len(key)), skip, within=False)
            buffer = problem.buffer()
            scratch = torch.empty_like(buffer)
            for rows, columns in problem.tiles():
                tile = problem.logits(rows, columns, buffer)  # (n, m)
                total += _softplus(tile, scratch[: tile.numel()].view_as(tile))
                if not any(needs):
                    continue
                tile.sigmoid_()
                of_bias += tile.sum()
                if of_query is not None:
                    of_query[rows].addmm_(tile, key[columns])
                if of_key is not None:
                    of_key[columns].addmm_(tile.T, query[rows])
        of_scale = None if of_query is None else (query * of_query).sum()
        ctx.factor = float(scale)
        ctx.save_for_backward(of_query, of_key, of_scale, of_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        of_query, of_key, of_scale, of_bias = ctx.saved_tensors
        of_rows = [None if of_rows is None else of_rows * (gradient * ctx.factor) for of_rows in (of_query, of_key)]
        return *of_rows, None if of_scale is None else of_scale * gradient, of_bias * gradient, None


def _softplus(tile: Tensor, scratch: Tensor) -> Tensor:
    """Sum of log(1 + exp(tile)); above SAFE_LOGIT that is the logit itself, to rounding."""
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
