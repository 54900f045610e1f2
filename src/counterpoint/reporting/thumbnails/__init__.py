"""Rows as small pictures. One file a column: `thumbnail(value, side)` in the file named like the column."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from PIL import Image

__all__ = ["drawn_column", "list_thumbnails", "thumbnail"]


@cache
def list_thumbnails() -> tuple[str, ...]:
    """Columns that can be drawn: pictures first, then by name."""
    names = [info.name for info in pkgutil.iter_modules(__path__)]
    return tuple(sorted(names, key=lambda name: (name != "image", name)))


def drawn_column(columns: Iterable[str]) -> str | None:
    """The column that stands for a row in a picture; None when none can be drawn."""
    found = set(columns)
    return next((name for name in list_thumbnails() if name in found), None)


def thumbnail(column: str, value: Any, side: int) -> Image.Image:
    """A picture at most `side` pixels high of what a column holds.

    Raises:
        BadRow: the value cannot be decoded.
    """
    draw: Callable[[Any, int], Image.Image] = importlib.import_module(f"{__name__}.{column}").thumbnail
    return draw(value, side)
