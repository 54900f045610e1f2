"""Where a media column's bytes are: in memory, or in a regular file that may be opened."""

from __future__ import annotations

import io
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from counterpoint.data.errors import BadRow

__all__ = ["head_of", "media_source"]


def media_source(value: Any, kind: str, forms: str = "bytes, a path or an array") -> io.BytesIO | Path:
    """What a decoder opens: the bytes, or the path of a file that is there, regular and not empty.

    Args:
        value: bytes, a path, or a mapping with `bytes` or `path` (the hub's form).
        kind: "recording" or the like, for the error.
        forms: what may be given, for the error.

    Raises:
        BadRow: neither, an address, a file that cannot be read, a pipe or a device, or no bytes at all.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        if not len(value):
            raise BadRow("empty file (0 bytes)")
        return io.BytesIO(value)
    if not isinstance(value, str | Path):
        raise BadRow(f"{type(value).__name__} is no {kind}: give {forms}")
    if "://" in str(value)[:16]:
        raise BadRow(f"{str(value)[:80]!r} is an address: a {kind} is read from the disk only")
    path = Path(value)
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise BadRow(f"the {kind} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device would block or never end
        raise BadRow(f"the {kind} is not a regular file")
    if not status.st_size:
        raise BadRow("empty file (0 bytes)")
    return path


def head_of(source: Path | io.BytesIO, count: int = 256) -> bytes:
    """The first bytes of a source."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(count)
    return source.getvalue()[:count]
