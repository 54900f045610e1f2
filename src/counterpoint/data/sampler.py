"""Which rows meet in a batch: a pure function of (seed, epoch), the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["GroupPlan", "Plan"]


class Plan:
    """Batches of row indices, each epoch in another order.

    Args:
        rows: number of rows.
        batch: rows a batch.
        seed: of the order.
        shuffle: False keeps the order of the rows, the same in every epoch.
        drop_last: leave out the rows that do not fill a batch (others in each epoch).
    """

    def __init__(self, rows: int, *, batch: int, seed: int, shuffle: bool = True, drop_last: bool = True) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.batches = rows // batch if drop_last else -(-rows // batch)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Row indices of each batch, int64 (batch,)."""
        order = np.arange(self.rows)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        return [order[start : start + self.batch] for start in range(0, self.batches * self.batch, self.batch)]


class GroupPlan:
    """Batches in which no two rows share a group, so that near-duplicates are never each other's negatives.

    With T batches an epoch, a group gives at most T rows to an epoch. T is the largest number for which full
    batches exist. What a group cannot give waits its turn: each group deals its rows like a deck that is gone
    through before it starts again, so over the epochs every row of a group is used equally often, give or
    take one.

    Args:
        groups: one value a row; rows with equal values share a group.
        batch: rows a batch.
        seed: of the order.
        drop_last: False puts every row into every epoch, in batches of nearly equal size up to `batch`.

    Raises:
        ValueError: fewer groups than rows in a batch.
    """

    def __init__(self, groups: Sequence[Any], *, batch: int, seed: int, drop_last: bool = True) -> None:
        _, codes = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
        self.rows, self.batch, self.seed = len(codes), batch, seed
        members = np.argsort(codes, kind="stable")
        self._sizes = np.bincount(codes)  # (G,)
        self._members = np.split(members, np.cumsum(self._sizes)[:-1])
        generator = np.random.default_rng([seed, 0x67726F7570])
        self._decks = [generator.permutation(group) for group in self._members]
        self._turns = generator.permutation(len(self._sizes))  # rank of each group when one must give less
        if drop_last:
            self.batches = self._full_batches()
            self._plan_shares(self.batches * batch)
        else:
            self.batches = max(-(-self.rows // batch), int(self._sizes.max()))
            self._plan_shares(self.rows)

    def _full_batches(self) -> int:
        """Largest T with sum of min(size, T) >= T * batch: then T batches of distinct groups exist."""
        if len(self._sizes) < self.batch:
            raise ValueError(
                f"batch={self.batch}, but there are only {len(self._sizes)} groups and a batch holds one row "
                f"of each: choose batch <= {len(self._sizes)}"
            )
        count = self.rows // self.batch
        while np.minimum(self._sizes, count).sum() < count * self.batch:
            count -= 1
        return count

    def _plan_shares(self, wanted: int) -> None:
        """Cap groups at the lowest level that gives enough rows; those at the cap take turns at one less."""
        level = self.batches
        while level > 1 and np.minimum(self._sizes, level - 1).sum() >= wanted:
            level -= 1
        self._shares = np.minimum(self._sizes, level)  # (G,)
        self._surplus = int(self._shares.sum()) - wanted
        capped = np.flatnonzero(self._sizes >= level)
        self._capped = capped[np.argsort(self._turns[capped], kind="stable")]  # in order of their turns

    def _reductions(self, epoch: int) -> np.ndarray:
        """(G,) how often each group gave one less before `epoch`: the surplus walks around them."""
        counts = np.zeros(len(self._sizes), dtype=np.int64)
        if self._surplus:
            places = np.arange(len(self._capped))
            counts[self._capped] = np.maximum(0, -((places - epoch * self._surplus) // len(self._capped)))
        return counts

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Row indices of each batch, int64 (batch,)."""
        generator = np.random.default_rng([self.seed, epoch])
        before, after = self._reductions(epoch), self._reductions(epoch + 1)
        starts = epoch * self._shares - before  # rows dealt so far, per group
        counts = self._shares - (after - before)
        dealt = []
        for group in generator.permutation(len(self._sizes)):
            deck = self._decks[group]
            rows = deck[(starts[group] + np.arange(counts[group])) % len(deck)]
            dealt.append(generator.permutation(rows))
        order = np.concatenate(dealt)
        # Rows of a group lie side by side and are at most `batches` long: every T-th row never meets its own
        # group.
        batches = [order[first :: self.batches] for first in range(self.batches)]
        return [generator.permutation(batches[place]) for place in generator.permutation(self.batches)]
