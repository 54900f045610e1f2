"""Polygon files (ply) as tables of points: read in text or binary, written in binary."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from counterpoint.data.errors import BadRow
from counterpoint.storage import write_bytes

__all__ = ["encode_ply", "read_ply", "text_columns", "write_ply"]

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_HEADER = 2**16
"""Bytes of the longest header."""


class _Element(NamedTuple):
    name: str
    rows: int
    fields: list[tuple[str, str]]
    listed: bool


def read_ply(source: Path | io.BytesIO, max_points: int) -> dict[str, np.ndarray]:
    """Properties of the vertices by name, in lower case, one value each.

    Raises:
        BadRow: no vertices, more than `max_points`, or cut short.
    """
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        form, elements = _header(file)
        for element in elements:
            if element.name == "vertex":
                _check_count(element, max_points)
                return _vertices(file, form, element, size - file.tell())
            if element.listed:
                raise BadRow(f"its element {element.name!r} stands before the vertices and has lists")
            _pass_over(file, form, element)
    raise BadRow("a ply file without vertices")


def _header(file: IO[bytes]) -> tuple[str, list[_Element]]:
    """Format ("ascii", "<", ">") and elements."""
    form, used = "", 0
    elements: list[_Element] = []
    for line in iter(file.readline, b""):
        used += len(line)
        words = line.decode("latin-1").split()
        if used > _HEADER:
            break
        if words == ["end_header"]:
            if not form:
                raise BadRow("its header names no format")
            return form, elements
        if words[:1] == ["format"] and len(words) > 1:
            forms = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}
            if words[1] not in forms:
                raise BadRow(f"ply format {words[1][:40]!r} is unknown")
            form = forms[words[1]]
        elif words[:1] == ["element"] and len(words) == 3:
            elements.append(_Element(words[1], int(words[2]), [], False))
        elif words[:1] == ["property"] and elements and len(words) > 2:
            elements[-1] = _with_property(elements[-1], words)
    raise BadRow("its header has no end")


def _with_property(element: _Element, words: list[str]) -> _Element:
    if words[1] == "list":
        return element._replace(listed=True)
    if words[1] not in _TYPES:
        raise BadRow(f"property type {words[1][:40]!r} is unknown")
    name = words[2].lower()
    if any(name == other for other, _ in element.fields):
        raise BadRow(f"property {name[:40]!r} comes twice")
    return element._replace(fields=[*element.fields, (name, _TYPES[words[1]])])


def _check_count(element: _Element, max_points: int) -> None:
    if element.listed:
        raise BadRow("its vertices have lists, which are not read")
    if element.rows < 1 or not element.fields:
        raise BadRow("no points")
    if element.rows > max_points:
        raise BadRow(f"{element.rows} points are more than the limit of {max_points} (max_points)")


def _vertices(file: IO[bytes], form: str, element: _Element, left: int) -> dict[str, np.ndarray]:
    names = [name for name, _ in element.fields]
    if form == "ascii":
        return dict(zip(names, text_columns(file, element.rows, len(names), left), strict=True))
    dtype = np.dtype([(name, form + kind) for name, kind in element.fields])
    if element.rows * dtype.itemsize > left:
        raise BadRow(f"cut short: {left} bytes cannot hold {element.rows} points of {dtype.itemsize} bytes")
    table = np.frombuffer(file.read(element.rows * dtype.itemsize), dtype=dtype)
    return {name: table[name].astype(table[name].dtype.newbyteorder("=")) for name in names}


def text_columns(file: IO[bytes], count: int, columns: int, left: int) -> np.ndarray:
    """(columns, count) numbers from lines of text.

    Args:
        file: at the first line.
        count: lines that are read.
        columns: numbers a line.
        left: bytes that the file still has.

    Raises:
        BadRow: fewer lines than `count`, or something that is no number.
    """
    if 2 * columns * count - 1 > left:
        raise BadRow(f"cut short: {left} bytes of text cannot hold {count} points of {columns} numbers")
    try:
        table = np.loadtxt(file, dtype=np.float64, max_rows=count, ndmin=2, encoding="latin-1", comments=None)
    except ValueError as error:
        raise BadRow(f"a line that is no point: {' '.join(str(error).split())[:120]}") from error
    if table.shape != (count, columns):
        raise BadRow(f"cut short: {count} points of {columns} numbers are promised, {table.shape} found")
    return table.T


def _pass_over(file: IO[bytes], form: str, element: _Element) -> None:
    if form == "ascii":
        for _ in range(element.rows):
            if not file.readline():
                raise BadRow(f"cut short: its element {element.name!r} ends early")
    else:
        width = np.dtype([(name, form + kind) for name, kind in element.fields]).itemsize
        file.seek(element.rows * width, io.SEEK_CUR)


def encode_ply(cloud: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of a binary ply file.

    Args:
        cloud: `xyz` (N, 3); and, as there are, `intensity` (N,) and `colour` (N, 3) in [0, 1], `label` (N,) from 0 to
            65535, `origin` (3,) that is added to the places (they are then written in double precision).

    Raises:
        ValueError: an array with another number of rows.
    """
    xyz, count = np.asarray(cloud["xyz"]), len(cloud["xyz"])
    place = "f4" if "origin" not in cloud else "f8"
    columns: list[tuple[str, str, np.ndarray]] = [
        (name, place, axis) for name, axis in zip("xyz", (xyz + cloud.get("origin", 0)).T, strict=True)
    ]
    if "intensity" in cloud:
        columns.append(("intensity", "f4", cloud["intensity"]))
    if "colour" in cloud:
        eight = np.round(np.clip(cloud["colour"], 0, 1) * 255)
        columns += [(name, "u1", axis) for name, axis in zip(("red", "green", "blue"), eight.T, strict=True)]
    if "label" in cloud:
        columns.append(("label", "u2", cloud["label"]))
    wrong = next((name for name, _, values in columns if np.shape(values) != (count,)), None)
    if wrong is not None:
        raise ValueError(f"{wrong} must have one value for each of the {count} points")
    table = np.empty(count, dtype=[(name, "<" + kind) for name, kind, _ in columns])
    for name, _, values in columns:
        table[name] = values
    words = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [*(f"property {words[kind]} {name}" for name, kind, _ in columns), "end_header", ""]
    return "\n".join(lines).encode("ascii") + table.tobytes()


def write_ply(path: str | Path, cloud: Mapping[str, np.ndarray]) -> Path:
    """Write a cloud as a binary ply file, whole or not at all; see `encode_ply`."""
    return write_bytes(path, encode_ply(cloud))
