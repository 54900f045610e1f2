"""Arrays from npy and npz files: the header is checked before anything is read, and objects are refused."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from counterpoint.data.errors import BadRow

__all__ = ["read_npy", "read_npz"]

_MEMBERS = 64
_COLUMNS = 64
"""Numbers a point that are read at most."""


def read_npy(source: Path | io.BytesIO, max_rows: int) -> np.ndarray:
    """The array of an npy file.

    Args:
        source: the file.
        max_rows: rows refused above; an array has at most 64 numbers a row.

    Raises:
        BadRow: too large, of objects, or cut short.
        ValueError: no npy file.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _array(file, source.stat().st_size, max_rows)
    return _array(io.BytesIO(source.getvalue()), len(source.getvalue()), max_rows)


def read_npz(source: Path | io.BytesIO, max_rows: int) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name; others of its entries are passed over.

    Args:
        source: the file.
        max_rows: rows of an array refused above.

    Raises:
        BadRow: an array that is too large, of objects, or damaged; says which.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            if len(entries) > _MEMBERS:
                raise BadRow(f"{len(entries)} arrays in one npz file, the limit is {_MEMBERS}")
            for entry in entries:
                if entry.flag_bits & 1:
                    raise BadRow("its arrays are encrypted")
                with archive.open(entry) as file:
                    arrays[entry.filename.removesuffix(".npy")] = _array(file, entry.file_size, max_rows)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BadRow(f"damaged npz file: {error}") from error
    return arrays


def _array(file: IO[bytes], size: int, max_rows: int) -> np.ndarray:
    """One array from a stream of `size` bytes."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):
        raise BadRow(f"npy version {version[0]}.{version[1]} is not read; save it again with numpy.save")
    try:
        shape, by_columns, dtype = read_header(file)
    except Exception as error:  # NumPy parses the header as Python's literals, which fail in many ways: all mean damage
        raise BadRow(f"damaged npy header: {' '.join(str(error).split())[:120]}") from error
    if dtype.hasobject:
        raise BadRow("it holds Python objects, which are never unpickled: save plain arrays of numbers")
    count = math.prod(shape)
    rows = shape[0] if len(shape) < 3 else math.prod(shape[:-1])
    if (rows if shape else 1) > max_rows or count > max_rows * _COLUMNS:
        raise BadRow(f"an array of shape {shape} is more than the limit of {max_rows} points (max_points)")
    if count * dtype.itemsize > size:
        raise BadRow(f"cut short: {size} bytes cannot hold an array of shape {shape} of {dtype}")
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise BadRow(f"cut short: its header says shape {shape} of {dtype}")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if by_columns else "C")
