"""Row and Rows: what every reader of data, view and system in this library agrees on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias, overload

import numpy as np

from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.paths import path_below
from counterpoint.data.readers import JoinedReader, MemoryReader, Reader, check_column, digest

__all__ = ["MEDIA", "NUMBERS", "Row", "Rows", "concatenate"]

Row: TypeAlias = dict[str, Any]
"""One example: a dict with conventional column names, and `id`, a stable text unique in its source."""

MEDIA = ("image", "mask", "video", "audio", "points")
"""Columns whose text values are paths of files."""

NUMBERS = ("score", "target", "weight")
"""Columns that are numbers, whatever the file calls them."""


class Rows(Sequence[Row]):
    """A sequence of rows with random access. Media stay undecoded: bytes, a path, a PIL image or an array.

    Attributes:
        name: what the user called the source.
        class_names: names of the classes; `label`, or the numbers in `mask`, are indices into it. None without names.
        skipped: (id, reason) of entries that were left out when the source was opened.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        name: str,
        renamed: Mapping[str, str] | None = None,
        hidden: Iterable[str] = (),
        indices: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        label_codes: Mapping[Any, int] | None = None,
        skipped: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._reader = reader
        self._renamed = dict(renamed or {})  # new name -> the reader's
        self._hidden = frozenset(hidden)  # the reader's names that are not shown under themselves
        self._indices = indices
        self._label_codes = None if label_codes is None else dict(label_codes)
        self.name = name
        self.class_names = None if class_names is None else list(class_names)
        self.skipped = list(skipped)

    @classmethod
    def from_list(
        cls,
        rows: Sequence[Mapping[str, Any]],
        *,
        name: str = "rows",
        class_names: Sequence[str] | None = None,
    ) -> Rows:
        """Rows from mappings held in memory; rows without an `id` are numbered."""
        return cls(MemoryReader(rows), name=name, class_names=class_names)

    def _with(self, **changes: Any) -> Rows:
        settings: dict[str, Any] = {
            "name": self.name,
            "renamed": self._renamed,
            "hidden": self._hidden,
            "indices": self._indices,
            "class_names": self.class_names,
            "label_codes": self._label_codes,
            "skipped": self.skipped,
        }
        return Rows(self._reader, **{**settings, **changes})

    def __len__(self) -> int:
        return len(self._reader) if self._indices is None else len(self._indices)

    def __repr__(self) -> str:
        return f"Rows({self.name!r}, {len(self)} rows, columns {', '.join(self.columns)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that rows have, `id` aside."""
        return (*self._renamed, *(name for name in self._reader.columns if name not in self._hidden))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when the rows, their order, their names or their labels do."""
        order = b"" if self._indices is None else self._indices.astype("<i8").tobytes()
        return digest(self._reader.identity(), repr(sorted(self._renamed.items())), order, repr(self.class_names))[:16]

    def _position(self, index: int) -> int:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"row {index} of {size} rows")
        index = int(index) % size
        return index if self._indices is None else int(self._indices[index])

    def row_id(self, index: int) -> str:
        """The id of a row, without reading the row."""
        return self._reader.row_id(self._position(index))

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        """A row (raises BadRow when it cannot be read), or the rows of a slice."""
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        position = self._position(index)
        try:
            return self._finish(self._reader.read(position))
        except BadRow as error:
            error.row_id = error.row_id or self._reader.row_id(position)
            raise

    def __iter__(self) -> Iterator[Row]:
        """Every usable row in order, read in blocks; a bad row raises BadRow."""
        for item in self.scan():
            if isinstance(item, BadRow):
                raise item
            yield item

    def scan(self, block: int = 512) -> Iterator[Row | BadRow]:
        """Every row in order, with the error in the place of a bad one."""
        if self._indices is not None:
            for index in range(len(self)):
                try:
                    yield self[index]
                except BadRow as error:
                    yield error
            return
        for start in range(0, len(self), block):
            for raw in self._reader.read_many(start, min(start + block, len(self))):
                if isinstance(raw, BadRow):
                    yield raw
                    continue
                try:
                    yield self._finish(raw)
                except BadRow as error:
                    error.row_id = raw["id"]
                    yield error

    def _finish(self, raw: dict[str, Any]) -> Row:
        """Raw row of the reader -> named, with paths checked and labels coded."""
        row: Row = {"id": raw["id"]}
        for new, old in self._renamed.items():
            if old in raw:
                row[new] = raw[old]
        row.update((name, value) for name, value in raw.items() if name not in self._hidden)
        if self._reader.root is not None:
            for name in MEDIA:
                if isinstance(row.get(name), str):
                    row[name] = path_below(self._reader.root, row[name])
        if self._label_codes is not None and "label" in row:
            row["label"] = None if row["label"] in (None, "") else self._code(row["label"])
        if self._reader.text_values:
            for name in NUMBERS:
                if name in row:
                    row[name] = _number(name, row[name])
        return row

    def _code(self, label: Any) -> int:
        assert self._label_codes is not None
        if label not in self._label_codes:
            raise BadRow(f"label {label!r} is none of the {len(self._label_codes)} known classes")
        return self._label_codes[label]

    def column(self, name: str) -> list[Any]:
        """All values of one column, in order; media columns are not decoded. None where a row has none.

        Raises:
            DataError: there is no such column.
        """
        if name == "id":
            return [self.row_id(index) for index in range(len(self))]
        values = self.raw_column(name)
        if name == "label" and self._label_codes is not None:
            codes = self._label_codes
            return [codes.get(value) for value in values]
        if name in NUMBERS and self._reader.text_values:
            return [_number_or_none(value) for value in values]
        return list(values)

    def raw_column(self, name: str) -> Iterator[Any]:
        """Values of one column as the source spells them. Raises DataError: no such column."""
        if name not in self.columns:
            raise DataError(f"{self.name}: no column {name!r}; found: {', '.join(self.columns)}")
        values = self._reader.column(self._renamed.get(name, name))
        if self._indices is None:
            yield from values
        else:
            everything = list(values)
            yield from (everything[index] for index in self._indices)

    def select(self, indices: Sequence[int] | np.ndarray) -> Rows:
        """The rows at `indices` (a mask, or numbers that may be negative), in that order."""
        chosen = np.asarray(list(indices) if isinstance(indices, range) else indices)
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise ValueError(f"indices is a mask of {len(chosen)}, but there are {len(self)} rows")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if len(chosen) and not (-len(self) <= chosen.min() and chosen.max() < len(self)):
            raise IndexError(f"indices reach from {chosen.min()} to {chosen.max()}, but there are {len(self)} rows")
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        return self._with(indices=chosen if self._indices is None else self._indices[chosen])

    def rename(self, columns: Mapping[str, str]) -> Rows:
        """Rows with other column names.

        Args:
            columns: new name -> present name. Other columns keep theirs.

        Raises:
            DataError: a present name does not exist; names the columns found.
        """
        found = self.columns
        for new, old in columns.items():
            check_column(old, new, found, self.name)
        changed = {*columns, *columns.values()}
        kept = {new: old for new, old in self._renamed.items() if new not in changed}
        renamed = {**kept, **{new: self._renamed.get(old, old) for new, old in columns.items()}}
        return self._with(renamed=renamed, hidden=self._hidden | set(renamed) | set(renamed.values()))

    def with_codes(self, codes: Mapping[Any, int], class_names: Sequence[str]) -> Rows:
        """Rows whose `label` is looked up in `codes`; a value that is not there makes a bad row."""
        return self._with(label_codes=codes, class_names=class_names)

    def with_labels(self, class_names: Sequence[str]) -> Rows:
        """Rows whose `label` counts in the given classes: to read a test set with the classes of a training
        set.

        Raises:
            DataError: labels have no names here, or a class is not among `class_names`.
        """
        if self.class_names is None:
            raise DataError(f"{self.name}: its labels have no names, so they cannot be matched to class names")
        missing = [name for name in self.class_names if name not in class_names]
        if missing:
            raise DataError(f"{self.name}: class {missing[0]!r} is none of the {len(class_names)} given classes")
        places = {name: place for place, name in enumerate(class_names)}
        new = [places[name] for name in self.class_names]
        codes = self._label_codes or {place: place for place in range(len(new))}
        return self.with_codes({value: new[code] for value, code in codes.items()}, class_names)


def _number_or_none(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _number(name: str, value: Any) -> float:
    number = _number_or_none(value)
    if number is None:
        raise BadRow(f"column {name!r} holds {str(value)[:40]!r}, which is no number")
    return number


def concatenate(parts: Sequence[Rows], names: Sequence[str] | None = None) -> Rows:
    """Several sources one after another.

    Args:
        parts: at least one.
        names: one for each part; rows then say it in the column `source`, and ids start with it. Without
            names the ids of the parts must differ.

    Class names are united: a class that two parts call alike is one class.
    """
    if not parts:
        raise ValueError("parts is empty: give at least one source")
    if names is not None and len(set(names)) < len(parts):
        raise ValueError(f"names must be one for each part, all different; got {list(names)}")
    class_names = None
    if all(part.class_names is not None for part in parts):
        class_names = sorted({name for part in parts for name in part.class_names or ()})
        if any(part.class_names != class_names for part in parts):
            parts = [part.with_labels(class_names) for part in parts]
    skipped = [
        (entry if names is None else f"{names[number]}/{entry}", reason)
        for number, part in enumerate(parts)
        for entry, reason in part.skipped
    ]
    title = " + ".join(part.name for part in parts)
    return Rows(JoinedReader(parts, names), name=title, class_names=class_names, skipped=skipped)
