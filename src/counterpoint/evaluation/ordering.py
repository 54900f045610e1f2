"""Vectors that were computed in any order, put back into that of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Finished", "Outlet", "concatenate"]


class Finished(NamedTuple):
    """A row with its vectors."""

    id: str
    vectors: dict[str, Tensor]

    @property
    def layout(self) -> tuple[Any, ...]:
        """Equal for rows whose vectors can stand in one tensor; the number of tokens may differ."""
        return tuple((space, value.dim(), value.shape[-1]) for space, value in self.vectors.items())


class Outlet:
    """Puts rows that were finished in any order back into theirs, and cuts them into batches."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.position = 0  # of the next row that leaves
        self._done: dict[int, Finished | None] = {}
        self._open: list[Finished] = []

    def put(self, position: int, row: Finished | None) -> None:
        """A finished row, or None for one that is left out."""
        self._done[position] = row

    def batches(self, *, last: bool = False) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
        """Full batches; one is also cut where the spaces change, and with `last` the rest is given out."""
        while self.position in self._done:
            row = self._done.pop(self.position)
            self.position += 1
            if row is None:
                continue
            if self._open and self._open[0].layout != row.layout:
                yield self._cut()
            self._open.append(row)
            if len(self._open) == self.batch:
                yield self._cut()
        if last and self._open:
            yield self._cut()

    def _cut(self) -> tuple[list[str], dict[str, Tensor]]:
        rows, self._open = self._open, []
        spaces = {space: _stack([row.vectors[space] for row in rows]) for space in rows[0].vectors}
        return [row.id for row in rows], spaces


def concatenate(parts: list[Tensor]) -> Tensor:
    """Token spaces of different lengths are padded with zero rows, (N, L, D)."""
    if parts[0].dim() < 3 or len({part.shape[1:] for part in parts}) == 1:
        return torch.cat(parts)
    length = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, length - part.shape[1])) for part in parts])


def _stack(vectors: Sequence[Tensor]) -> Tensor:
    """(D,) -> (B, D); (n, D) tokens -> (B, longest n, D), padded with zeros, which stand for no token."""
    if vectors[0].dim() != 2 or len({len(vector) for vector in vectors}) == 1:
        return torch.stack(list(vectors))
    return torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)
