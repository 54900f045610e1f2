"""Paths that a data file names: they stay below the folder the user gave."""

from __future__ import annotations

from pathlib import Path

from counterpoint.data.errors import BadRow

__all__ = ["path_below"]


def path_below(root: Path, value: str) -> Path:
    """The file `value` names, relative to `root`. Raises BadRow when it lies outside, links followed."""
    if "://" in value:
        raise BadRow(f"{value[:80]!r} is an address; files are read from the disk only")
    if "\0" in value:
        raise BadRow("the path contains a zero byte")
    base = root.resolve()
    path = (base / value).resolve()
    if not path.is_relative_to(base):
        raise BadRow(f"path {value[:120]!r} leaves the folder {base} (pass root= to allow a wider one)")
    return path
