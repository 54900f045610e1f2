"""Where a run reads and writes: data sources of every kind, and a directory that is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterpoint.data import Rows, open_rows, open_sources

__all__ = ["Data", "check_out", "describe_data", "open_data"]

Data = str | Path | Rows | Sequence[Any] | None
"""A source, several sources (texts, "name=path" sets the column `source`), rows, or None."""


def open_data(data: Data, columns: Mapping[str, str] | None = None) -> Rows:
    """Rows of whatever names them.

    Raises:
        ValueError: nothing is named, or a column that is renamed does not exist.
        counterpoint.data.DataError: the source cannot be used.
    """
    if data is None:
        raise ValueError("data is missing: name a folder, a file or a built-in set")
    columns = dict(columns) if columns else None
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | Path) for item in data):
        return open_sources([str(item) for item in data], columns=columns)
    if isinstance(data, str) and "=" in data and not Path(data).exists():
        return open_sources([data], columns=columns)
    return open_rows(data, columns=columns)


def describe_data(data: Data, rows: Rows) -> list[str]:
    """What config.yaml says about the source."""
    items = list(data) if isinstance(data, list | tuple) else [data]
    if items and all(isinstance(item, str | Path) for item in items):
        return [str(item) for item in items]
    return [rows.name]


def check_out(path: Path, *, resume: bool) -> None:
    """Refuse to write over another run, or into a directory of something else.

    Raises:
        ValueError: `path` is taken; says by what.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out={path} is a file; give a directory")
    holds_run = (path / "config.yaml").is_file()
    if holds_run and not resume:
        raise ValueError(f"out={path} already holds a run: continue it with resume, or give another out")
    if path.is_dir() and not holds_run and any(not found.name.startswith(".") for found in path.iterdir()):
        leftovers = {found.name for found in path.iterdir()} - {"facts.json", "facts.safetensors", "assets"}
        if leftovers:
            raise ValueError(f"out={path} holds files that are not a run ({sorted(leftovers)[0]}): give another out")
