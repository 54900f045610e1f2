"""The table on the disk: its path, its columns, and what it remembers of the model that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from torch import Tensor

from counterpoint.evaluation.embedding import DEFAULT_SPACE

__all__ = ["Metadata", "create_table", "open_table", "table_columns", "table_path", "vector_column"]

Metadata = dict[str, Any]
"""JSON values: format, model, preprocessing, spaces, versions."""

_KEY = b"counterpoint"
_PLAIN = {
    "id": pa.string(),
    "text": pa.string(),
    "label": pa.string(),
    "source": pa.string(),
    "path": pa.string(),
    "thumbnail": pa.binary(),
}


def table_path(path: str | Path) -> Path:
    """The directory of a table: `photos` and `photos.lance` are the same one.

    Raises:
        ValueError: a name that LanceDB does not take.
    """
    path = Path(path).expanduser()
    path = path if path.suffix == ".lance" else path.with_name(path.name + ".lance")
    if not all(sign.isascii() and (sign.isalnum() or sign in "_-.") for sign in path.stem) or not path.stem:
        raise ValueError(
            f"a table cannot be called {path.stem!r}: use a-z, digits, '_', '-' and '.', as in photos.lance"
        )
    return path.resolve()


def vector_column(space: str) -> str:
    """Column of a space: `vector` for the unnamed one, else `vector_<space>`."""
    return "vector" if space == DEFAULT_SPACE else f"vector_{space}"


def table_columns() -> tuple[str, ...]:
    """Columns of every table that are no vectors."""
    return tuple(_PLAIN)


def _schema(metadata: Metadata) -> pa.Schema:
    fields = [pa.field(name, kind) for name, kind in _PLAIN.items()]
    for space, facts in metadata["spaces"].items():
        row = pa.list_(pa.float32(), facts["dimensions"])
        fields.append(pa.field(vector_column(space), pa.list_(row) if facts["tokens"] else row))
    return pa.schema(fields, metadata={_KEY: json.dumps(metadata).encode()})


def _parts(path: Path) -> tuple[Any, str]:
    return lancedb.connect(str(path.parent)), path.stem


def create_table(path: Path, metadata: Metadata) -> Any:
    """An empty table with the columns that `metadata` asks for; what a killed creation left is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database, name = _parts(path)
    mode = "overwrite" if path.exists() else "create"
    return database.create_table(name, schema=_schema(metadata), mode=mode)


def open_table(path: str | Path) -> tuple[Any, Metadata] | None:
    """The table and what it remembers; None when there is none yet.

    Raises:
        ValueError: something else lies at this path, or a table that `embed` did not make.
    """
    path = table_path(path)
    if not path.exists():
        return None
    if not path.is_dir():
        raise ValueError(f"{path} is a file, not a table: choose another path")
    if not any((path / "_versions").glob("*")):
        if any(child.name not in ("_versions", "_transactions", "data") for child in path.iterdir()):
            raise ValueError(f"{path} is a folder but not a table: choose another path")
        return None  # a process was killed while it created the table
    database, name = _parts(path)
    table = database.open_table(name)
    stored = (table.schema.metadata or {}).get(_KEY)
    if stored is None:
        raise ValueError(f"{path} is a LanceDB table that counterpoint did not make: it does not name its model")
    return table, json.loads(stored)


def record_batch(rows: Sequence[Mapping[str, Any]], metadata: Metadata) -> pa.Table:
    """Rows with plain columns and their vectors by space as an Arrow table; missing vectors are null."""
    columns: dict[str, Any] = {}
    for name, kind in _PLAIN.items():
        columns[name] = pa.array([row.get(name) for row in rows], type=kind)
    for space, facts in metadata["spaces"].items():
        vectors = [row["vectors"].get(space) for row in rows]
        columns[vector_column(space)] = _vectors(vectors, facts)
    return pa.table(columns)


def _vectors(vectors: Sequence[Tensor | None], facts: Mapping[str, Any]) -> pa.Array:
    row = pa.list_(pa.float32(), facts["dimensions"])
    kind = pa.list_(row) if facts["tokens"] else row
    return pa.array([None if vector is None else _without_padding(vector).tolist() for vector in vectors], type=kind)


def _without_padding(vector: Tensor) -> Tensor:
    """Tokens without the zero rows that pad them; a plain vector as it is."""
    return vector[vector.any(dim=1)] if vector.dim() == 2 else vector
