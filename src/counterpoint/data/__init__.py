"""Rows in: one front door for files, hub ids and built-in sets; loaders that count what is bad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.data import images as images
    from counterpoint.data.errors import BadRow, DataError
    from counterpoint.data.loader import Loader
    from counterpoint.data.open import list_builtins, open_rows, open_sources
    from counterpoint.data.packages import fetch
    from counterpoint.data.rows import Row, Rows, concatenate

__all__ = [
    "BadRow",
    "DataError",
    "Loader",
    "Row",
    "Rows",
    "concatenate",
    "fetch",
    "images",
    "list_builtins",
    "open_rows",
    "open_sources",
]

_HOME = {
    "BadRow": "errors",
    "DataError": "errors",
    "Loader": "loader",
    "Row": "rows",
    "Rows": "rows",
    "concatenate": "rows",
    "fetch": "packages",
    "list_builtins": "open",
    "open_rows": "open",
    "open_sources": "open",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line reads this package before it needs torch."""
    import importlib

    if name == "images":
        return importlib.import_module("counterpoint.data.images")
    if name in _HOME:
        return getattr(importlib.import_module(f"counterpoint.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'counterpoint.data' has no attribute {name!r}")
