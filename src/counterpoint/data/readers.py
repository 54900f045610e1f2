"""Readers: random access to the rows of one kind of storage. `Rows` puts names, order, labels on top."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data.errors import BadRow, DataError

if TYPE_CHECKING:
    from counterpoint.data.rows import Rows

__all__ = ["ORIGINAL_ID", "JoinedReader", "MemoryReader", "Reader", "check_column", "digest", "repeated"]


ORIGINAL_ID = "original_id"
"""Name of a source's column `id` when it is not the one that ids are taken from."""


def digest(*parts: str | bytes) -> str:
    """SHA-256 (hex) over the parts and their lengths."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


class Reader(ABC):
    """Random access to rows. Picklable, and small when pickled: it travels to loader workers.

    Attributes:
        columns: names of the columns a row has, without "id".
        root: folder that relative media paths in rows are below, or None when rows hold no such paths.
        text_values: True when every value is text (csv): labels and scores are then converted by name.
    """

    columns: tuple[str, ...] = ()
    root: Path | None = None
    text_values: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row_id(self, index: int) -> str:
        """Stable name of a row, unique within the source."""

    @abstractmethod
    def read(self, index: int) -> dict[str, Any]:
        """The row with its `id`. Raises BadRow."""

    @abstractmethod
    def identity(self) -> str:
        """Text that changes when the content does."""

    def read_many(self, start: int, stop: int) -> list[dict[str, Any] | BadRow]:
        """Rows start..stop-1 in order, with the error in the place of a bad one."""
        rows: list[dict[str, Any] | BadRow] = []
        for index in range(start, stop):
            try:
                rows.append(self.read(index))
            except BadRow as error:
                error.row_id = error.row_id or self.row_id(index)
                rows.append(error)
        return rows

    def column(self, name: str) -> Iterator[Any]:
        """Values of one column in order; None where the row is bad or lacks it."""
        for start in range(0, len(self), 1024):
            for row in self.read_many(start, min(start + 1024, len(self))):
                yield None if isinstance(row, BadRow) else row.get(name)


def check_column(wanted: str, as_name: str, found: Sequence[str], title: str) -> None:
    """Raises DataError: `wanted` is not among the columns found."""
    if wanted not in found:
        raise DataError(f"{title}: no column {wanted!r} (wanted as {as_name!r}); found: {', '.join(found)}")


def repeated(values: Iterable[str], count: int) -> int | None:
    """Place of a value that came before, or None. Holds 8 bytes a value."""
    hashes = np.fromiter((int(digest(value)[:16], 16) for value in values), dtype=np.uint64, count=count)
    order = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(np.diff(hashes[order]) == 0)
    return int(order[twice[0] + 1]) if len(twice) else None


class MemoryReader(Reader):
    """Rows that are already a sequence of mappings."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], *, identity: str | None = None) -> None:
        self._rows = rows
        self._identity = identity
        self.columns = _shared_columns(rows)
        self._check_ids()

    def _check_ids(self) -> None:
        twice = repeated((self.row_id(index) for index in range(len(self))), len(self))
        if twice is not None:
            raise DataError(
                f"two rows have the id {self.row_id(twice)!r}; ids must be unique (leave `id` out to number the rows)"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        """The row's own `id`, else its number."""
        return str(self._rows[index].get("id", index))

    def read(self, index: int) -> dict[str, Any]:
        """A shallow copy of the row."""
        return {**self._rows[index], "id": self.row_id(index)}

    def identity(self) -> str:
        """The given identity, else a hash over the values."""
        if self._identity is None:
            self._identity = digest(*(_value_bytes(value) for row in self._rows for value in row.items()))
        return self._identity


def _shared_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Columns that every row has, in the order of the first row."""
    if not rows:
        return ()
    shared = set(rows[0])
    for row in rows:
        shared &= set(row)
    return tuple(name for name in rows[0] if name in shared and name != "id")


def _value_bytes(item: tuple[str, Any]) -> bytes:
    name, value = item
    if isinstance(value, (bytes, bytearray, memoryview)):
        content = bytes(value)
    elif isinstance(value, np.ndarray):
        content = f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif hasattr(value, "tobytes"):  # a PIL image
        content = f"{getattr(value, 'mode', '')}{getattr(value, 'size', '')}".encode() + value.tobytes()
    else:
        content = repr(value).encode("utf-8", "surrogateescape")
    return name.encode() + b"\0" + content


class JoinedReader(Reader):
    """Several `Rows` one after another; each row says in `source` which one it comes from."""

    def __init__(self, parts: Sequence[Rows], names: Sequence[str] | None) -> None:
        self._parts = list(parts)
        self._names = None if names is None else list(names)
        self._ends = np.array(list(accumulate(len(part) for part in self._parts)), dtype=np.int64)
        shared = set.intersection(*(set(part.columns) for part in self._parts))
        self.columns = tuple(name for name in self._parts[0].columns if name in shared and name != "source")
        if self._names is not None:
            self.columns += ("source",)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _locate(self, index: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - (int(self._ends[part - 1]) if part else 0)

    def row_id(self, index: int) -> str:
        """The part's id, behind the name of the source."""
        part, inner = self._locate(index)
        own = self._parts[part].row_id(inner)
        return own if self._names is None else f"{self._names[part]}/{own}"

    def read(self, index: int) -> dict[str, Any]:
        """The part's row with `source` added."""
        part, inner = self._locate(index)
        row = self._parts[part][inner]
        if self._names is not None:
            row["source"] = self._names[part]
            row["id"] = f"{self._names[part]}/{row['id']}"
        return row

    def column(self, name: str) -> Iterator[Any]:
        """Values of one column over all parts."""
        for number, part in enumerate(self._parts):
            if name == "source" and self._names is not None:
                yield from [self._names[number]] * len(part)
            else:
                yield from part.column(name)

    def identity(self) -> str:
        """Over the fingerprints of the parts."""
        return digest(*(part.fingerprint for part in self._parts), *(self._names or ()))
