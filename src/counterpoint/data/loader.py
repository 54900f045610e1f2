"""From rows to batches: the same for any number of workers and processes; bad rows counted, left out."""

from __future__ import annotations

import copy
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.rows import Row, Rows
from counterpoint.data.sampler import GroupPlan, Plan

__all__ = ["Loader"]

View = Callable[[Row, np.random.Generator], Mapping[str, Any]]
Collate = Callable[[list[Mapping[str, Any]]], dict[str, Any]]
_Order = tuple[int, int, np.ndarray]
"""(epoch, position of the batch in the epoch, row indices of this process)."""

_VIEW_STREAM = 0x76696577  # keeps a view's draws apart from those that order the rows

_FAIR_SAMPLE = 50
"""Rows after which a rate of skipped rows is looked at."""

_MARGIN = 3.0
"""Standard deviations above the allowed rate that part of an epoch must show: a few early bad rows are chance."""


class Loader:
    """Batches of one source, epoch by epoch.

    Which rows make a batch, in which order, and what the view draws for each, depends on (seed, epoch,
    position)
    alone: not on `workers`, not on how many processes share the batch. A row that raises BadRow is counted,
    listed and left out; the batch is that much smaller.

    Args:
        rows: where to read.
        view: (row, rng) -> sample, a mapping. `rng` is a NumPy generator made from (seed, epoch, row index);
            the view must draw from nothing else. Pickled to the workers.
        collate: samples -> batch, a dict of tensors and lists. Stacks by default.
        batch: rows of the GLOBAL batch, over all processes together.
        seed: of order and views.
        workers: processes that read ahead; 0 reads in this one.
        shuffle: another order in every epoch.
        drop_last: leave out the rows that do not fill a batch.
        shard: (index, count): this is process `index` of `count`. Of each global batch it reads a contiguous
            slice; the slices differ by at most one row. With the same seed the processes together see exactly
            the batches that one process sees, in the same order of rows.
        max_skip_rate: share of bad rows in an epoch above which the run stops (judged after 50 rows, and at
            the end).
        group: a column; a batch then never holds two rows with the same value (see `GroupPlan`).
        prefetch: batches that each worker reads ahead.
        pin_memory: put tensors into page-locked memory, for copies to a GPU.

    Attributes:
        skipped: (id, reason) of every bad row met so far, once each, in the order they were met.
        seen: rows read so far, bad ones included.
        batches_per_epoch: batches in one epoch.

    Raises:
        DataError: no rows, fewer rows than a batch, no such group column.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        rows: Rows,
        view: View,
        collate: Collate = default_collate,
        *,
        batch: int,
        seed: int,
        workers: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        shard: tuple[int, int] = (0, 1),
        max_skip_rate: float = 0.10,
        group: str | None = None,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        _check_arguments(rows, batch, seed, workers, shard, max_skip_rate, drop_last)
        self.rows, self.batch, self.seed, self.workers = rows, batch, seed, workers
        self.shard, self.max_skip_rate = shard, max_skip_rate
        self._prefetch, self._pin_memory = prefetch, pin_memory
        self._plan = _make_plan(rows, batch, seed, shuffle, drop_last, group)
        self._samples = _Samples(rows, view, collate, seed, hold_place=shard[1] > 1)
        self.batches_per_epoch = self._plan.batches
        self._reasons: dict[str, str] = {}
        self.seen = 0

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every bad row met so far."""
        return list(self._reasons.items())

    def batches(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """The batches of an epoch from number `start` on: what `collate` returned, and two more keys.

        `_ids` is the list of row ids, in row order; `_position` is the number of the batch in the epoch. A
        batch without a single usable row is left out in one process; with several it comes with zero rows
        (tensors keep their other dimensions), so that all processes take the same number of steps.

        Raises:
            DataError: too many rows are bad.
        """
        if start < 0 or epoch < 0:
            raise ValueError(f"epoch and start count from 0, got epoch={epoch}, start={start}")
        seen = bad = 0
        for packet in self._packets(self._orders(epoch, start)):
            self.seen += packet["seen"]
            seen += packet["seen"]
            bad += len(packet["skipped"])
            self._reasons.update({name: why for name, why in packet["skipped"] if name not in self._reasons})
            if packet["failure"] is not None:
                raise packet["failure"]
            if seen >= _FAIR_SAMPLE:
                self._check_rate(seen, bad, margin=_MARGIN)
            if packet["batch"] is not None:
                yield packet["batch"]
        self._check_rate(seen, bad, margin=0.0)

    def _orders(self, epoch: int, start: int) -> list[_Order]:
        index, count = self.shard
        plan = self._plan.epoch(epoch)
        return [(epoch, position, np.array_split(plan[position], count)[index]) for position in range(start, len(plan))]

    def _packets(self, orders: list[_Order]) -> Iterator[dict[str, Any]]:
        if self.workers == 0:
            for order in orders:
                yield self._samples[order]
            return
        # Its own generator: torch's loader otherwise draws a seed from the global one and shifts all that
        # follows.
        yield from DataLoader(
            self._samples,
            batch_size=None,
            sampler=_Fixed(orders),
            num_workers=min(self.workers, max(len(orders), 1)),
            prefetch_factor=self._prefetch,
            pin_memory=self._pin_memory,
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(self.seed % 2**63),
        )

    def _check_rate(self, seen: int, bad: int, *, margin: float) -> None:
        limit = self.max_skip_rate
        chance = margin * math.sqrt(limit * (1 - limit) / max(seen, 1))
        if bad > (limit + chance) * seen:
            examples = "; ".join(f"{name}: {why}" for name, why in self.skipped[:3])
            raise DataError(
                f"{self.rows.name}: {bad} of {seen} rows cannot be used, more than max_skip_rate="
                f"{self.max_skip_rate:g}. First: {examples}"
            )


def _check_arguments(
    rows: Rows,
    batch: int,
    seed: int,
    workers: int,
    shard: tuple[int, int],
    max_skip_rate: float,
    drop_last: bool,
) -> None:
    index, count = shard
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if not 0 <= index < count:
        raise ValueError(f"shard is (index, count) with 0 <= index < count, got {shard}")
    if not 0 <= max_skip_rate <= 1:
        raise ValueError(f"max_skip_rate is a share between 0 and 1, got {max_skip_rate}")
    if len(rows) == 0:
        raise DataError(f"{rows.name}: no rows")
    if drop_last and len(rows) < batch:
        raise DataError(f"{rows.name}: batch={batch}, but there are only {len(rows)} rows: choose batch <= {len(rows)}")
    if drop_last and batch < count:
        raise ValueError(f"batch={batch} rows cannot be shared by {count} processes: choose batch >= {count}")


def _make_plan(
    rows: Rows, batch: int, seed: int, shuffle: bool, drop_last: bool, group: str | None
) -> Plan | GroupPlan:
    if group is None:
        return Plan(len(rows), batch=batch, seed=seed, shuffle=shuffle, drop_last=drop_last)
    if not shuffle:
        raise ValueError(f"group={group!r} chooses the order of the rows, so shuffle=False cannot be kept")
    return GroupPlan(rows.column(group), batch=batch, seed=seed, drop_last=drop_last)


def _as_it_is(packet: Any) -> Any:
    return packet


class _Fixed(Sampler[_Order]):
    """Hands out prepared orders, one batch each."""

    def __init__(self, orders: list[_Order]) -> None:
        self._orders = orders

    def __iter__(self) -> Iterator[_Order]:
        return iter(self._orders)

    def __len__(self) -> int:
        return len(self._orders)


class _Samples(Dataset[dict[str, Any]]):
    """Reads one batch at a time, here or in a worker. Never raises: what went wrong travels in the packet."""

    def __init__(self, rows: Rows, view: View, collate: Collate, seed: int, *, hold_place: bool) -> None:
        self._rows, self._view, self._collate = rows, view, collate
        self._seed, self._hold_place = seed, hold_place

    def _sample(self, epoch: int, index: int) -> tuple[Mapping[str, Any], str]:
        generator = np.random.default_rng([self._seed, epoch, index, _VIEW_STREAM])
        row = self._rows[index]
        row_id = row["id"]
        return self._view(row, generator), row_id

    def __getitem__(self, order: _Order) -> dict[str, Any]:
        epoch, position, indices = order
        packet: dict[str, Any] = {"seen": len(indices), "skipped": [], "batch": None, "failure": None}
        samples, ids = [], []
        index = -1
        try:
            for index in indices.tolist():
                try:
                    sample, row_id = self._sample(epoch, index)
                    samples.append(sample)
                    ids.append(row_id)
                except BadRow as error:
                    packet["skipped"].append((self._rows.row_id(index), error.reason))
            index = -1
            if samples:
                packet["batch"] = {**self._collate(samples), "_ids": ids, "_position": position}
            elif self._hold_place:
                packet["batch"] = {**self._empty(epoch), "_ids": [], "_position": position}
        except Exception as error:  # noqa: BLE001 - handed to the main process, which raises it
            where = "collating a batch" if index < 0 else f"making the view of row {self._rows.row_id(index)!r}"
            packet["failure"] = _portable(error, f"while {where} of {self._rows.name}")
        return packet

    def _empty(self, epoch: int) -> dict[str, Any]:
        """A batch of zero rows, shaped after the first usable row."""
        for index in range(len(self._rows)):
            try:
                return _no_rows(self._collate([self._sample(epoch, index)[0]]))
            except BadRow:
                continue  # counted where the row is met in its own batch
        raise DataError(f"{self._rows.name}: not one of {len(self._rows)} rows can be used")


def _no_rows(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value[:0]
    if isinstance(value, Mapping):
        return {name: _no_rows(item) for name, item in value.items()}
    return value[:0] if isinstance(value, (list, tuple)) else value


def _portable(error: Exception, where: str) -> Exception:
    """The error with a note of where it happened, in a form that survives the way from a worker."""
    try:
        copy.copy(error)  # rebuilt from its arguments, as the main process will
    except Exception:  # an error type of the user's that cannot be rebuilt: keep its words
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(where)
    error.add_note(traceback.format_exc())
    return error
