"""Compressed files: unpacked once into the cache folder, with a limit on how much may come out."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from counterpoint.data.cache import cache_folder, replacing
from counterpoint.data.errors import DataError
from counterpoint.data.line_index import file_key

__all__ = ["unpacked"]

_BLOCK = 2**20
_FREE = 64 * 2**20  # bytes that may come out whatever went in
_RATIO = 200  # text in tables shrinks 5 to 50 times; a bomb a thousand times


def unpacked(path: Path) -> Path:
    """The file itself, or for .gz (and .tgz) the unpacked copy in the cache folder.

    Raises:
        DataError: damaged, or it grows more than 200 times.
    """
    ending = path.suffix.lower()
    if ending not in (".gz", ".tgz"):
        return path
    inner = Path(path.name).with_suffix(".tar" if ending == ".tgz" else "").name
    place = cache_folder("unpacked", file_key(path)) / inner
    if place.exists():
        return place
    try:
        with replacing(place) as temporary:
            _unpack(path, temporary)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}") from None
    return place


def _unpack(path: Path, target: Path) -> None:
    written = 0
    with path.open("rb") as raw, gzip.GzipFile(fileobj=raw) as stream, target.open("wb") as out:
        while block := stream.read(_BLOCK):
            written += len(block)
            if written > _FREE and written > _RATIO * raw.tell():
                raise DataError(
                    f"{path}: {raw.tell()} bytes have become {written} already, more than {_RATIO} times "
                    f"as many: refused as a decompression bomb (unpack it yourself if you trust it)"
                )
            out.write(block)
