"""Rows in Arrow files, read through a memory map: random access without holding the table in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from counterpoint.data.cache import replacing
from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.readers import ORIGINAL_ID, Reader, repeated

__all__ = ["ArrowReader", "MappedTable", "write_arrow"]

_RELEASE_BYTES = 64 * 2**20


class MappedTable:
    """Arrow stream files as one table. Opened on first use in each process; pickles as its paths.

    Pages that were read stay mapped until they add up to 64 MB, then they are given back to the system, so a
    pass over a file of any size keeps the process small.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self._batches: list[pa.RecordBatch] | None = None
        self._maps: list[mmap.mmap] = []
        self._ends = np.zeros(0, dtype=np.int64)
        self._touched = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def _open(self) -> list[pa.RecordBatch]:
        if self._batches is None:
            batches = []
            for path in self.paths:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._maps.append(mapped)
                reader = pa.ipc.open_stream(pa.py_buffer(mapped))
                self.schema: pa.Schema = reader.schema
                batches += [batch for batch in reader if batch.num_rows]
            self._batches = batches
            self._ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)
        return self._batches

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in the order of the file."""
        self._open()
        return list(self.schema.names)

    def __len__(self) -> int:
        self._open()
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Rows start..stop-1 as Python values."""
        found: list[dict[str, Any]] = []
        for piece in self._pieces(start, stop):
            found += piece.to_pylist()
        return found

    def values(self, name: str) -> Iterator[pa.Array]:
        """One column, in pieces of a few thousand values."""
        for start in range(0, len(self), 8192):
            for piece in self._pieces(start, min(start + 8192, len(self))):
                yield piece.column(name)

    def _pieces(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        batches = self._open()
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            batch = batches[number]
            first = int(self._ends[number]) - batch.num_rows
            count = min(stop - first, batch.num_rows) - (start - first)
            piece = batch.slice(start - first, count)
            yield piece
            self._release(piece.nbytes)
            start += count
            number += 1

    def _release(self, size: int) -> None:
        self._touched += size + 4096
        if self._touched > _RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


class ArrowReader(Reader):
    """Rows of Arrow files.

    Args:
        paths: Arrow stream files with the same columns.
        identity: text that changes with the content.
        id_column: column that holds unique ids; rows are numbered without one.
        root: see `Reader`.
        text_values: see `Reader`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        identity: str,
        id_column: str | None = None,
        root: Path | None = None,
        text_values: bool = False,
    ) -> None:
        self.table = MappedTable(paths)
        self._identity = identity
        self._id_column = id_column
        self.root, self.text_values = root, text_values
        names = self.table.column_names
        self.columns = tuple(ORIGINAL_ID if name == "id" else name for name in names if name != id_column)
        self._packed = [name for name in names if _is_packed_file(self.table.schema.field(name).type)]

    def __len__(self) -> int:
        return len(self.table)

    def row_id(self, index: int) -> str:
        """Value of the id column, else the number of the row."""
        if self._id_column is None:
            return str(index)
        return str(self._value(index, self._id_column))

    def _value(self, index: int, name: str) -> Any:
        return next(self.table._pieces(index, index + 1)).column(name)[0].as_py()

    def read(self, index: int) -> dict[str, Any]:
        """One row."""
        return self._finish(self.table.rows(index, index + 1)[0], index)

    def read_many(self, start: int, stop: int) -> list[dict[str, Any] | BadRow]:
        """Rows start..stop-1."""
        return [self._finish(row, index) for index, row in enumerate(self.table.rows(start, stop), start)]

    def _finish(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        if "id" in row and self._id_column != "id":
            row[ORIGINAL_ID] = row.pop("id")
        row["id"] = str(index if self._id_column is None else row.pop(self._id_column))
        for name in self._packed:  # the hub's form of a media file
            value = row[name]
            if value is not None:
                row[name] = value["path"] if value["bytes"] is None else value["bytes"]
        return row

    def column(self, name: str) -> Iterator[Any]:
        """Values of one column, without reading the others."""
        for piece in self.table.values("id" if name == ORIGINAL_ID else name):
            yield from piece.to_pylist()

    def check_ids(self, name: str) -> None:
        """Raises DataError: an id comes twice."""
        assert self._id_column is not None
        twice = repeated(map(str, self.column(self._id_column)), len(self))
        if twice is not None:
            raise DataError(
                f"{name}: the id {self.row_id(twice)!r} comes more than once; give the column another name "
                f"(--columns key={self._id_column}) and rows are numbered"
            )

    def identity(self) -> str:
        """As given."""
        return self._identity


def _is_packed_file(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def write_arrow(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, *, block: int = 1000) -> Path:
    """Write rows to an Arrow stream file, whole or not at all; memory holds one block of rows."""
    remaining = iter(rows)
    with (
        replacing(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        while waiting := list(islice(remaining, block)):
            writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=schema))
    return path
