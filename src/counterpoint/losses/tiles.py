"""The similarity matrix of two sets of rows, one tile at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from counterpoint.losses.sharing import ALONE, Party

__all__ = ["Similarity", "first_order", "token_tiles", "working_dtype"]

TILE = 2048
"""Rows and columns of a tile (16 MB in float32). Smaller ones make slower products, larger ones more memory; against
themselves, rows leave out more of the half that need not be visited the smaller a tile is."""
STRIP = 2**20
"""Entries of a tile that a CPU works on between two products: 4 MB in float32 stay in its caches over all passes."""
TILE_TOKENS = 2**21
"""Token similarities held at once by late interaction."""


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 when any tensor is float64, else float32: half precision is accumulated in float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward whose own gradient does not exist, and says so instead of being silently left out."""

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():  # so it is in a backward exactly with create_graph=True
            raise RuntimeError(
                "the tiled losses have no second derivative, since they hold no graph of their tiles; call "
                "backward or torch.autograd.grad without create_graph=True"
            )
        return backward(ctx, *gradients)

    return checked


def _bounds(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(count)."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def token_tiles(first: Tensor, second: Tensor, members: int = 1) -> Iterator[tuple[slice, slice]]:
    """Tiles of the pairs of (N, n1, D) and (M, n2, D): at most `TILE_TOKENS` similarities, or one pair.

    With more members at least about four tiles each.
    """
    pairs = max(1, TILE_TOKENS // (first.shape[1] * second.shape[1]))
    if members > 1:
        pairs = max(1, min(pairs, len(first) * len(second) // (4 * members)))
    width = min(len(second), max(1, math.isqrt(pairs)))
    for rows in _bounds(len(first), max(1, pairs // width)):
        for columns in _bounds(len(second), width):
            yield rows, columns


@dataclass
class Similarity:
    """What defines the matrix of logits: scale * query @ key.T + bias, without the entries of `skip`.

    Attributes:
        query: (N, D); key: (M, D), the same object as `query` when `within`.
        scale: factor of the products.
        bias: (M,) or (N, M), or None.
        skip: (N, S) columns left out of row i's sum, and of that column's sum.
        within: rows against themselves; only tiles on and above the diagonal are visited.
        party: who visits the tiles.
    """

    query: Tensor
    key: Tensor
    scale: float
    bias: Tensor | None
    skip: Tensor | None
    within: bool = False
    party: Party = ALONE

    def _side(self) -> int:
        """Rows and columns of a tile: with more members at least four tiles each."""
        members = self.party.members
        return TILE if members == 1 else min(TILE, math.ceil(max(len(self.query), len(self.key)) / (2 * members)))

    def upper_bound(self) -> float:
        """A number that no logit exceeds, from the lengths of the rows; NaN where a row or the bias has one."""
        longest = [float(torch.linalg.vector_norm(rows, dim=1).max()) for rows in (self.query, self.key)]
        bound = abs(self.scale) * longest[0] * longest[1]
        return bound if self.bias is None else bound + float(self.bias.max())

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of this member's tiles; with `within`, both grids are the same and columns >= rows."""
        return self.party.mine(self._all_tiles())

    def _all_tiles(self) -> Iterator[tuple[slice, slice]]:
        size = self._side()
        for rows in _bounds(len(self.query), size):
            for columns in _bounds(len(self.key), size):
                if not self.within or columns.start >= rows.start:
                    yield rows, columns

    def buffer(self) -> Tensor:
        """Room for one tile, used for all of them."""
        size = self._side()
        return self.query.new_empty(min(size, len(self.query)) * min(size, len(self.key)))

    def strips(self, tile: Tensor, start: int) -> Iterator[tuple[slice, Tensor]]:
        """Parts of a tile (n, m) to be worked on one after the other: (rows of `query`, the part).

        Args:
            tile: logits.
            start: row of `query` that is its first.
        """
        for part in _bounds(len(tile), self._strip(tile.shape[1])):
            yield slice(start + part.start, start + part.stop), tile[part]

    def scratch(self) -> Tensor:
        """Room for a second strip, used for all of them."""
        size = self._side()
        rows, columns = min(size, len(self.query)), min(size, len(self.key))
        return self.query.new_empty(min(rows * columns, max(STRIP, columns)) if self._on_cpu() else rows * columns)

    def _strip(self, columns: int) -> int:
        """Rows of a strip. An accelerator has no cache to fit, and is asked as rarely as can be."""
        return max(1, STRIP // columns) if self._on_cpu() else self._side()

    def _on_cpu(self) -> bool:
        return self.query.device.type == "cpu"

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
