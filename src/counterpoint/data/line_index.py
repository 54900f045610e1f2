"""Where each record of a text file starts: found once, kept on disk, read through a memory map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from counterpoint.data.cache import cache_folder, replacing
from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.readers import digest

__all__ = ["RECORD_LIMIT", "LineIndex", "file_key", "sampled_digest"]

RECORD_LIMIT = 16 * 2**20
"""Bytes of one record. A longer one is a quote that never closes, or not a table at all."""

_BLOCK = 2**16
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def file_key(path: Path, *settings: str) -> str:
    """Name for what is derived from a file; changes when the file is written again."""
    status = path.stat()
    return digest(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns), *settings)[:32]


def sampled_digest(path: Path) -> str:
    """Hash of a file's size and of 64 spread blocks (all of it up to 4 MB): fast, and equal for copies."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= 64 * _BLOCK:
            return digest(str(size), file.read())
        parts = []
        for start in np.linspace(0, size - _BLOCK, 64).astype(np.int64):
            file.seek(int(start))
            parts.append(file.read(_BLOCK))
    return digest(str(size), *parts)


class LineIndex:
    """Random access to the records of one file: its lines; csv records may span lines. Blank
    lines are none.

    Args:
        path: UTF-8 text, with or without a byte order mark.
        delimiter: of csv fields when quotes may hold line ends, else None.

    Raises:
        DataError: another encoding, or a record above 16 MB.
    """

    def __init__(self, path: Path, *, delimiter: str | None) -> None:
        self.path = path
        self._file: tuple[int, BinaryIO] | None = None
        self._place = cache_folder("lines") / f"{file_key(path, repr(delimiter))}.starts"
        if not self._place.exists():
            _build(path, self._place, delimiter)
        self._starts = np.memmap(self._place, dtype=np.int64, mode="r")  # (records + 1,) int64

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_place": self._place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _file=None, _starts=np.memmap(state["_place"], dtype=np.int64, mode="r"))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def text(self, number: int) -> str:
        """A record without its line end.

        Raises:
            BadRow: not UTF-8.
        """
        return _decoded(self._read(int(self._starts[number]), int(self._starts[number + 1])))

    def texts(self, start: int, stop: int) -> Iterator[str | BadRow]:
        """Records start..stop-1 in order, read in one go, with the error in the place of a bad one."""
        places = np.asarray(self._starts[start : stop + 1])
        block = self._read(int(places[0]), int(places[-1]))
        for first, last in zip((places[:-1] - places[0]).tolist(), (places[1:] - places[0]).tolist(), strict=True):
            try:
                yield _decoded(block[first:last])
            except BadRow as error:
                yield error

    def _read(self, start: int, stop: int) -> bytes:
        if self._file is None or self._file[0] != os.getpid():  # a handle shared over a fork shares its position
            self._file = (os.getpid(), self.path.open("rb"))
        file = self._file[1]
        file.seek(start)
        return file.read(stop - start)


def _decoded(record: bytes) -> str:
    """Text of a record, without its line end and the blank lines that follow it."""
    try:
        text = record.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: byte {record[error.start]:#04x} at place {error.start} of the record") from None
    while True:
        before, line_end, last = text.rpartition("\n")
        if not line_end or not last.isspace():
            return text
        text = before.rstrip("\r\n")


def _build(path: Path, place: Path, delimiter: str | None) -> None:
    """Write the starts of all records and the end of the last as int64; memory holds 65,536 of them."""
    with path.open("rb") as file:
        head = file.read(3)
        if head[:2] in _BOMS:
            raise DataError(f"{path} is {_BOMS[head[:2]]}; convert it: iconv -f UTF-16 -t UTF-8 {path} > new-file")
        file.seek(3 if head == b"\xef\xbb\xbf" else 0)
        with replacing(place) as temporary, temporary.open("wb") as out:
            for block in _blocks(_starts(file, path, delimiter)):
                out.write(block.tobytes())


def _blocks(numbers: Iterator[int]) -> Iterator[np.ndarray]:
    waiting: list[int] = []
    for number in numbers:
        waiting.append(number)
        if len(waiting) == _BLOCK:
            yield np.array(waiting, dtype=np.int64)
            waiting = []
    yield np.array(waiting, dtype=np.int64)


def _starts(file: BinaryIO, path: Path, delimiter: str | None) -> Iterator[int]:
    """Byte position of each record, then of the end of the file."""
    quote = None if delimiter is None else delimiter.encode()
    position = start = file.tell()
    inside = False
    number = 0
    while line := file.readline(RECORD_LIMIT + 1):
        begins = not inside
        if begins:
            start = position
        if quote is not None and (inside or b'"' in line):
            inside = _ends_inside(line, inside, quote)
        position += len(line)
        if position - start > RECORD_LIMIT:
            raise DataError(
                f"{path}: record {number} starts at byte {start} and does not end within "
                f"{RECORD_LIMIT} bytes: a quote is not closed there, or the file is no table of records"
            )
        if begins and (inside or not line.isspace()):
            yield start
            number += 1
    yield position


def _ends_inside(line: bytes, inside: bool, delimiter: bytes) -> bool:
    """Whether a quoted field is open after the line. A quote opens a field only at its start (RFC 4180)."""
    place = 0
    while True:
        place = line.find(b'"', place)
        if place < 0:
            return inside
        if inside and line[place + 1 : place + 2] == b'"':
            place += 1  # a doubled quote is a quote in the text
        elif inside:
            inside = False
        else:
            inside = place == 0 or line[place - 1 : place] == delimiter
        place += 1
