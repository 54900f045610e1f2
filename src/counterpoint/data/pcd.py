"""Point cloud library files (pcd): text, binary, and binary compressed by LZF."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import numpy as np

from counterpoint.data.errors import BadRow
from counterpoint.data.ply import text_columns

__all__ = ["read_pcd"]

_HEADER = 2**16
_KINDS = {"F": "f", "I": "i", "U": "u"}


def read_pcd(source: Path | io.BytesIO, max_points: int) -> dict[str, np.ndarray]:
    """Fields by name, in lower case, one value a point; a packed `rgb` becomes red, green and blue.

    Raises:
        BadRow: a header that says too little, more than `max_points`, or cut short.
    """
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        header = _header(file)
        dtype, counts = _dtype(header)
        points = int(header.get("POINTS", ["0"])[0])
        if points < 1:
            raise BadRow("no points")
        if points > max_points:
            raise BadRow(f"{points} points are more than the limit of {max_points} (max_points)")
        form = header["DATA"][0].lower()
        left = size - file.tell()
        if form == "ascii":
            columns = iter(text_columns(file, points, sum(counts), left))
            found = {}
            for name, count in zip(dtype.names or (), counts, strict=True):
                found[name] = next(columns)
                for _ in range(count - 1):
                    next(columns)
            found = {name: values.astype(dtype[name].base) for name, values in found.items()}
        else:
            found = _binary(file, form, dtype, points, left)
    return _unpacked({name: values for name, values in found.items() if not name.startswith("_")})


def _header(file: IO[bytes]) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    used = 0
    for line in iter(file.readline, b""):
        used += len(line)
        words = line.decode("latin-1").split()
        if used > _HEADER:
            break
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
            if words[0].upper() == "DATA" and len(words) == 2:
                return header
    raise BadRow("its header has no line DATA")


def _dtype(header: dict[str, list[str]]) -> tuple[np.dtype, list[int]]:
    """Type of a point, and numbers of each field."""
    missing = [name for name in ("FIELDS", "SIZE", "TYPE", "POINTS") if not header.get(name)]
    if missing:
        raise BadRow(f"its header has no line {missing[0]}")
    names = [name.lower() for name in header["FIELDS"]]
    counts = [int(count) for count in header.get("COUNT", ["1"] * len(names))]
    parts = list(zip(header["TYPE"], header["SIZE"], strict=True))
    if not len(names) == len(parts) == len(counts) or not all(1 <= count <= 4096 for count in counts):
        raise BadRow("FIELDS, SIZE, TYPE and COUNT of its header do not fit each other")
    fields, seen = [], set()
    for place, (name, (kind, width), count) in enumerate(zip(names, parts, counts, strict=True)):
        if kind not in _KINDS or width not in ("1", "2", "4", "8") or (kind == "F" and width in "12"):
            raise BadRow(f"field {name[:40]!r} of type {kind[:8]} and {width[:8]} bytes is unknown")
        title = f"_{place}" if name in seen or name == "_" or count > 1 else name
        seen.add(name)
        fields.append((title, f"<{_KINDS[kind]}{width}", (count,)) if count > 1 else (title, f"<{_KINDS[kind]}{width}"))
    return np.dtype(fields), counts


def _binary(file: IO[bytes], form: str, dtype: np.dtype, points: int, left: int) -> dict[str, np.ndarray]:
    total = points * dtype.itemsize
    if form == "binary":
        if total > left:
            raise BadRow(f"cut short: {left} bytes cannot hold {points} points of {dtype.itemsize} bytes")
        table = np.frombuffer(file.read(total), dtype=dtype)
        return {name: table[name] for name in dtype.names or ()}
    if form != "binary_compressed":
        raise BadRow(f"pcd data {form[:40]!r} is unknown")
    packed, size = struct.unpack("<II", file.read(8))
    if size != total or packed > left - 8:
        raise BadRow(f"cut short: {left} bytes of compressed data, {packed} for {size} promised, {total} needed")
    if size > 300 * packed:  # LZF makes at most 264 bytes of 3
        raise BadRow(f"compressed data of {packed} bytes cannot become {size}")
    content = _lzf(file.read(packed), size)
    found, start = {}, 0
    for name in dtype.names or ():
        width = dtype[name].itemsize * points
        found[name] = np.frombuffer(content[start : start + width], dtype=dtype[name].base)[:points]
        start += width
    return found


def _lzf(data: bytes, size: int) -> bytes:
    """Unpack LZF: a control byte below 32 says how many plain bytes follow, others point back."""
    out, place = bytearray(), 0
    while place < len(data):
        control = data[place]
        place += 1
        if control < 32:
            out += data[place : place + control + 1]
            place += control + 1
        else:
            length = control >> 5
            if length == 7:
                length += data[place]
                place += 1
            distance = ((control & 31) << 8 | data[place]) + 1
            place += 1
            if distance > len(out):
                raise BadRow("compressed data points before its beginning")
            start = len(out) - distance
            # a reference may reach into what it is itself writing: the pattern then repeats
            pattern = out[start : start + length + 2]
            out += (pattern * ((length + 2) // len(pattern) + 1))[: length + 2]
        if len(out) > size:
            break
    if len(out) != size:
        raise BadRow(f"compressed data becomes {len(out)} bytes instead of {size}")
    return bytes(out)


def _unpacked(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Red, green and blue of a packed colour."""
    packed = found.pop("rgb", found.pop("rgba", None))
    if packed is None or packed.dtype.itemsize != 4:
        return found
    bits = np.ascontiguousarray(packed).view(np.uint32)
    return {**found, **{name: bits >> shift & 255 for name, shift in (("red", 16), ("green", 8), ("blue", 0))}}
