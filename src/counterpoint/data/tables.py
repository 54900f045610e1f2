"""csv, tsv, jsonl and txt files as rows: nothing is loaded or copied, one bad record costs one row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data.cache import cache_folder, replacing
from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.line_index import RECORD_LIMIT, LineIndex, file_key, sampled_digest
from counterpoint.data.readers import ORIGINAL_ID, Reader, check_column, digest, repeated

__all__ = ["KINDS", "TableReader"]

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
}
"""File name ending -> how its records are read."""

_DELIMITERS = (",", ";", "\t", "|")
_PROBE = 100  # records that are looked at to learn the columns of a jsonl file

csv.field_size_limit(max(csv.field_size_limit(), RECORD_LIMIT))


class TableReader(Reader):
    """Records of text tables of one kind.

    csv: the first record names the columns; the delimiter is the one of , ; tab | that the header uses most;
    every value is text. jsonl: one object a line; values keep their types. txt: one text a line, column
    `text`. A record that cannot be parsed is a bad row; blank lines are no rows. Rows are numbered from 0
    unless an id column is named.

    Args:
        paths: files of one kind, with the same columns.
        id_column: column that holds ids; checked to be unique once for each state of the files.
        root: folder that media paths are relative to; that of the first file by default.

    Raises:
        DataError: no header, no usable record, different columns, an id that comes twice.
    """

    def __init__(self, paths: Sequence[Path], *, id_column: str | None = None, root: Path | None = None) -> None:
        self._paths = list(paths)
        self._kind = KINDS[paths[0].suffix.lower()]
        self._delimiter: str | None = None
        self._header: list[str] = []
        if self._kind == "csv":
            headers = [_read_header(path) for path in paths]
            self._delimiter, self._header = headers[0]
            for path, (_, header) in zip(paths, headers, strict=True):
                if header != self._header:
                    raise DataError(f"{path} has the columns {header}, but {paths[0]} has {self._header}")
        self._files = [LineIndex(path, delimiter=self._delimiter) for path in paths]
        self._first = 1 if self._kind == "csv" else 0  # the header is a record too
        self._ends = np.array(list(accumulate(max(len(file) - self._first, 0) for file in self._files)))
        self.text_values = self._kind == "csv"
        self.root = root or paths[0].parent
        self._id_column: str | None = None
        names = self._names = self._find_columns()
        if id_column not in (None, "id"):
            check_column(str(id_column), "id", names, str(paths[0]))
        if id_column in names:
            self._id_column = id_column
            self._check_ids()
        shown = [name for name in names if name != self._id_column]
        self.columns = tuple(ORIGINAL_ID if name == "id" else name for name in shown)

    def _find_columns(self) -> list[str]:
        if len(self) == 0:
            raise DataError(f"{self._paths[0]}: no rows")
        if self._kind == "csv":
            return self._header
        if self._kind == "text":
            return ["text"]
        names: dict[str, None] = {}
        problem = None
        for text, _, _ in self._texts(0, min(len(self), _PROBE)):
            try:
                if isinstance(text, BadRow):
                    raise text
                names.update(dict.fromkeys(self._parse(text)))
            except BadRow as error:
                problem = problem or error
        if not names:
            raise DataError(f"{self._paths[0]}: none of the first rows can be read. Row 0: {problem}")
        return list(names)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _locate(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    def _name(self, number: int, inner: int) -> str:
        """The id of a numbered row: its place in the file, behind the file's name when there are several."""
        return str(inner) if len(self._files) == 1 else f"{self._paths[number].stem}/{inner}"

    def row_id(self, index: int) -> str:
        """Value of the id column, else the number of the record."""
        number, inner = self._locate(index)
        if self._id_column is None:
            return self._name(number, inner)
        try:
            return str(self._parse(self._files[number].text(inner + self._first))[self._id_column])
        except (BadRow, KeyError):
            return f"row-{self._name(number, inner)}"

    def read(self, index: int) -> dict[str, Any]:
        """One record; columns it lacks are None."""
        number, inner = self._locate(index)
        return self._row(self._files[number].text(inner + self._first), number, inner)

    def _texts(self, start: int, stop: int) -> Iterator[tuple[str | BadRow, int, int]]:
        """(text, number of the file, place in it) of records start..stop-1, each file read in one go."""
        while start < stop:
            number, inner = self._locate(start)
            count = min(stop, int(self._ends[number])) - start
            first = inner + self._first
            for place, text in enumerate(self._files[number].texts(first, first + count), inner):
                yield text, number, place
            start += count

    def read_many(self, start: int, stop: int) -> list[dict[str, Any] | BadRow]:
        """Records start..stop-1."""
        found: list[dict[str, Any] | BadRow] = []
        for index, (text, number, inner) in enumerate(self._texts(start, stop), start):
            try:
                if isinstance(text, BadRow):
                    raise text
                found.append(self._row(text, number, inner))
            except BadRow as error:
                error.row_id = self.row_id(index)
                found.append(error)
        return found

    def column(self, name: str) -> Iterator[Any]:
        """Values of one column; None where the record is bad or lacks it."""
        key = "id" if name == ORIGINAL_ID else name
        for start in range(0, len(self), 1024):
            for text, _, _ in self._texts(start, min(start + 1024, len(self))):
                try:
                    yield None if isinstance(text, BadRow) else self._parse(text).get(key)
                except BadRow:
                    yield None

    def _row(self, text: str, number: int, inner: int) -> dict[str, Any]:
        values = self._parse(text)
        row = {name: values.get(name) for name in self._names}
        if "id" in row and self._id_column != "id":
            row[ORIGINAL_ID] = row.pop("id")
        if self._id_column is None:
            row["id"] = self._name(number, inner)
        elif values.get(self._id_column) is None:
            raise BadRow(f"no value in the id column {self._id_column!r}")
        else:
            row["id"] = str(row.pop(self._id_column))
        return row

    def _parse(self, text: str) -> dict[str, Any]:
        if self._kind == "text":
            return {"text": text.strip()}
        if self._kind == "jsonl":
            return _parse_json(text)
        return _parse_csv(text, self._header, self._delimiter or ",")

    def _check_ids(self) -> None:
        """Every id once; 8 bytes a row while checking, and remembered for these files."""
        keys = [file_key(path, "ids", str(self._id_column)) for path in self._paths]
        marker = cache_folder("lines") / f"{digest(*keys)[:32]}.ids"
        if marker.exists():
            return
        twice = repeated((self.row_id(index) for index in range(len(self))), len(self))
        if twice is not None:
            raise DataError(
                f"{self._paths[0]}: the id {self.row_id(twice)!r} comes more than once; give the column "
                f"another name (--columns key={self._id_column}) and rows are numbered"
            )
        with replacing(marker) as temporary:
            temporary.write_text("unique\n")

    def identity(self) -> str:
        """Over sizes and sampled content of the files."""
        return digest(*(sampled_digest(path) for path in self._paths), str(self._id_column))


def _parse_json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError:
        raise BadRow("JSON nested too deeply") from None
    except ValueError as error:
        raise BadRow(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRow(f"a JSON {type(value).__name__} where an object is needed ({{...}} on each line)")
    return value


def _parse_csv(text: str, header: list[str], delimiter: str) -> dict[str, Any]:
    try:
        records = list(csv.reader([text], delimiter=delimiter))
    except csv.Error as error:
        raise BadRow(f"not csv: {error}") from None
    if len(records) != 1 or len(records[0]) != len(header):
        raise BadRow(f"{len(records[0]) if records else 0} fields where the header has {len(header)}")
    return dict(zip(header, records[0], strict=True))


def _read_header(path: Path) -> tuple[str, list[str]]:
    """(delimiter, column names)."""
    with path.open("rb") as file:
        raw = file.readline(RECORD_LIMIT)
        while raw.isspace():
            raw = file.readline(RECORD_LIMIT)
    try:
        text = raw.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}: the header is not UTF-8; convert the file to UTF-8") from None
    if not text:
        raise DataError(f"{path}: empty file; the first line must name the columns")
    if "\r" in text:
        raise DataError(f"{path}: lines end with a lone carriage return; convert the line ends (tr '\\r' '\\n')")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=text.count)
    try:
        names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter))]
    except csv.Error as error:
        raise DataError(f"{path}: the first line is no csv header: {error}") from None
    names = [name or f"column{number}" for number, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {twice[0]!r} more than once")
    return delimiter, names
