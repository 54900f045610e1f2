"""Rows -> preprocessed samples, here or in worker processes, one bad row never stopping the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from counterpoint.data import BadRow, Rows
from counterpoint.system import Preprocess, System

__all__ = ["Failure", "MissingColumn", "read_samples", "row_id"]

_ROWS_PER_MESSAGE = 16


class MissingColumn(ValueError):
    """The system reads a column that the rows lack."""


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a sample that could not be made."""

    reason: str


def row_id(row: Mapping[str, Any], position: int) -> str:
    """The row's id; its position where a plain list of dicts has none."""
    return str(row["id"]) if row.get("id") is not None else str(position)


class _Samples(Dataset[tuple[str, Any]]):
    """Map-style data set of (id, sample or Failure); travels to the workers."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        preprocess: Preprocess,
        columns: tuple[str, ...] | None,
        owner: str,
    ) -> None:
        self.rows, self.preprocess, self.columns, self.owner = rows, preprocess, columns, owner

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[str, Any]:
        try:
            return self.sample(position, self.rows[position])
        except BadRow as error:
            return self.name(position), Failure(str(error))

    def name(self, position: int) -> str:
        """The id of a row that cannot be read."""
        return self.rows.row_id(position) if isinstance(self.rows, Rows) else str(position)

    def sample(self, position: int, row: Mapping[str, Any] | BadRow) -> tuple[str, Any]:
        """(id, sample) of a row that was read, or its `Failure`."""
        if isinstance(row, BadRow):
            return self.name(position), Failure(str(row))
        identity = row_id(row, position)
        if self.columns is not None:
            row = {name: value for name, value in row.items() if name == "id" or name in self.columns}
        try:
            return identity, self.preprocess(dict(row))
        except BadRow as error:
            return identity, Failure(str(error))
        except KeyError as error:
            raise MissingColumn(
                f"{self.owner} reads the column {error.args[0]!r}, but the rows have "
                f"{', '.join(sorted(map(str, row)))}; rename with columns={{{error.args[0]!r}: 'your_name'}}"
            ) from error


def _as_list(items: list[Any]) -> list[Any]:
    return items


def read_samples(
    system: System,
    rows: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    workers: int = 0,
) -> Iterator[tuple[str, Mapping[str, Any] | Failure]]:
    """(id, sample) of every row in order; a `Failure` in place of the sample of a bad row.

    Raises:
        MissingColumn: the system reads a column that the rows lack.
    """
    chosen = None if columns is None else tuple(columns)
    samples = _Samples(rows, system.preprocess(), chosen, type(system).__name__)
    if workers < 1:
        found = rows.scan() if isinstance(rows, Rows) else iter(rows)  # in blocks: many times faster than one by one
        for position, row in enumerate(found):
            yield samples.sample(position, row)
        return
    loader = DataLoader(
        samples,
        batch_size=_ROWS_PER_MESSAGE,
        num_workers=workers,
        collate_fn=_as_list,
        generator=torch.Generator().manual_seed(0),  # its own: the global generator is not ours to advance
    )
    for items in loader:
        yield from items
