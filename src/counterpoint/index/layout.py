"""The table on the disk: its path, its columns, and what it remembers of the model that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from counterpoint.evaluation.embedding import DEFAULT_SPACE

__all__ = [
    "Metadata",
    "Spaces",
    "create_table",
    "fill_columns",
    "open_table",
    "record_batch",
    "table_columns",
    "table_path",
    "vector_column",
]

Metadata = dict[str, Any]
"""JSON values: format, model, preprocessing, spaces, fast, versions."""

Spaces = dict[str, dict[str, Any]]
"""Space -> {"dimensions": D, "tokens": whether a row has several vectors in it}."""

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


def record_batch(rows: Sequence[Mapping[str, Any]], spaces: Spaces) -> pa.Table:
    """Rows with plain columns and a tensor for each of `spaces` in "vectors", as an Arrow table."""
    columns: dict[str, Any] = {}
    for name, kind in _PLAIN.items():
        columns[name] = pa.array([row.get(name) for row in rows], type=kind)
    for space, facts in spaces.items():
        columns[vector_column(space)] = _vectors([row["vectors"][space] for row in rows], facts)
    return pa.table(columns)


def fill_columns(part: pa.Table, metadata: Metadata) -> pa.Table:
    """The part with all columns of the table, null where it has none."""
    schema = _schema(metadata).remove_metadata()
    names = set(part.column_names)
    columns = [part[field.name] if field.name in names else pa.nulls(len(part), field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _vectors(vectors: Sequence[Tensor], facts: Mapping[str, Any]) -> pa.Array:
    """Copied from memory to memory: going through Python's numbers took most of the time of a write."""
    if not facts["tokens"]:
        return _fixed_lists(torch.stack(list(vectors)), facts["dimensions"])
    tokens = [_without_padding(vector) for vector in vectors]
    ends = np.cumsum([0, *map(len, tokens)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), _fixed_lists(torch.cat(tokens), facts["dimensions"]))


def _fixed_lists(vectors: Tensor, dimensions: int) -> pa.Array:
    """(N, dimensions) float32 -> N lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1).numpy()), dimensions)


def _without_padding(vector: Tensor) -> Tensor:
    """Tokens without the zero rows that pad them; a plain vector as it is."""
    return vector[vector.any(dim=1)] if vector.dim() == 2 else vector
