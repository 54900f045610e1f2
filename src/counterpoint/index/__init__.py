"""Vectors of your rows in a LanceDB table, and queries against it."""

from counterpoint.index.search import search
from counterpoint.index.table import embed

__all__ = ["embed", "search"]
