"""The cache folder: what is downloaded, drawn or indexed once and then found again."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from counterpoint.data.errors import DataError

__all__ = ["cache_folder", "replacing"]

_ADVICE = "set COUNTERPOINT_CACHE to a folder that can be written and has room"
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)


def cache_folder(*below: str) -> Path:
    """`$COUNTERPOINT_CACHE`, else `~/.cache/counterpoint`, or a folder below it; created when missing."""
    chosen = os.environ.get("COUNTERPOINT_CACHE")
    folder = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "counterpoint"
    folder = folder.joinpath(*below)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the cache folder {folder}: {error.strerror}; {_ADVICE}") from error
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place on success: readers see a whole file or none.

    Two processes that make the same file at once both succeed; the second replaces the first by the same
    content.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _WRITING:
            raise
        raise DataError(f"cannot write {path}: {error.strerror}; {_ADVICE}") from error
    finally:
        temporary.unlink(missing_ok=True)
