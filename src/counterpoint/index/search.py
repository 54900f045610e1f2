"""Queries against a table: by vector, by words, or both; by text or by image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from counterpoint.evaluation.embedding import embed_all
from counterpoint.evaluation.model import Model, open_model, weights_checksum
from counterpoint.evaluation.scoring import system_score
from counterpoint.index.layout import Metadata, open_table, table_columns, table_path, vector_column

__all__ = ["search"]

_CANDIDATES = 10  # times `top`, for queries that are ranked a second time
_FEWEST_CANDIDATES = 100
_FUSION = 60


def search(
    table: str | Path,
    query: str | None = None,
    *,
    image: Any = None,
    mode: Literal["vector", "text", "hybrid"] = "vector",
    top: int = 10,
    space: str | None = None,
    model: Any = None,
) -> list[dict[str, Any]]:
    """The best rows of a table made by `embed`.

    Args:
        table: path of the table, e.g. "photos.lance".
        query: words.
        image: a picture to search by: path, bytes, PIL image or array.
        mode: "vector" compares vectors; "text" looks for the words in the text column (BM25; needs no model);
            "hybrid" merges both rankings by reciprocal rank (Cormack et al. 2009, k = 60).
        top: number of rows.
        space: which vectors of the rows are compared; by default those of the picture, or the only ones.
        model: run directory or system that embeds the query; by default the run that made the table.

    Returns:
        At most `top` dicts, best first: id, score (larger is better: cosine, the model's own score, BM25, or
        merged reciprocal ranks), text, label, source, path, thumbnail (bytes).

    Raises:
        ValueError: no query, no such table or space, or the model that made the table is not where it was.
    """
    if query is None and image is None:
        raise ValueError('nothing to search for: pass query="words" or image="picture.jpg"')
    if mode not in ("vector", "text", "hybrid"):
        raise ValueError(f"mode must be 'vector', 'text' or 'hybrid', got {mode!r}")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    path = table_path(table)
    found = open_table(path)
    if found is None:
        raise ValueError(f"there is no table at {path}: make one with `counterpoint embed RUN DATA --out {path.name}`")
    opened, metadata = found
    if mode != "vector":
        _check_words(opened, path, query, mode)
    if mode == "text":
        assert query is not None
        return _found(_by_words(opened, query, top), "_score")
    system = _system(path, metadata, model)
    target = _target_space(metadata, space)
    vector = _query_vector(system, metadata, target, query, image)
    if mode == "hybrid":
        assert query is not None
        return _hybrid(opened, query, vector, target, top)
    return _by_vector(opened, metadata, system, vector, target, top)


def _check_words(table: Any, path: Path, query: str | None, mode: str) -> None:
    if query is None or not query.strip():
        raise ValueError(f"mode={mode!r} looks for words: pass query=")
    if not any("text" in index.columns for index in table.list_indices()):
        raise ValueError(f"the rows of {path.name} have no text to look for words in: use mode='vector'")


def _found(rows: list[dict[str, Any]], score: str) -> list[dict[str, Any]]:
    return [
        {"id": row["id"], "score": float(row[score])} | {name: row[name] for name in table_columns() if name != "id"}
        for row in rows
    ]


def _by_words(table: Any, query: str, depth: int) -> list[dict[str, Any]]:
    """Rows that hold any of the words, best BM25 score first."""
    found = table.search(query, query_type="fts", fts_columns="text").select([*table_columns(), "_score"])
    return found.limit(depth).to_list()


def _near(table: Any, vector: Tensor, target: str, depth: int, *columns: str) -> list[dict[str, Any]]:
    """Rows with the nearest vectors, nearest first; "_distance" is 1 - cosine."""
    found = table.search(vector.numpy(), vector_column_name=vector_column(target)).distance_type("cosine")
    found = found.refine_factor(10)  # an index holds rounded vectors: its candidates are compared exactly
    return found.select([*table_columns(), "_distance", *columns]).limit(depth).to_list()


def _hybrid(table: Any, query: str, vector: Tensor, target: str, top: int) -> list[dict[str, Any]]:
    """Both rankings, deep enough to meet, merged by the sum of 1 / (60 + rank)."""
    depth = max(_CANDIDATES * top, _FEWEST_CANDIDATES)
    rows: dict[str, dict[str, Any]] = {}
    for ranking in (_near(table, vector, target, depth), _by_words(table, query, depth)):
        for rank, row in enumerate(ranking, 1):
            merged = rows.setdefault(row["id"], row | {"_merged": 0.0})
            merged["_merged"] += 1 / (_FUSION + rank)
    return _found(sorted(rows.values(), key=lambda row: -row["_merged"])[:top], "_merged")


def _by_vector(
    table: Any, metadata: Metadata, system: Any, vector: Tensor, target: str, top: int
) -> list[dict[str, Any]]:
    own = system_score(system)
    if own is None:
        rows = _near(table, vector, target, top)
        return _found([row | {"_score": 1 - row["_distance"]} for row in rows], "_score")
    column = vector_column(target)
    rows = _near(table, vector, target, max(_CANDIDATES * top, _FEWEST_CANDIDATES), column)
    candidates = pad_sequence([torch.tensor(row[column]) for row in rows], batch_first=True)
    scores = own(vector[None], candidates)[0]  # (candidates,)
    best = scores.argsort(descending=True, stable=True)[:top].tolist()
    return _found([rows[place] | {"_score": float(scores[place])} for place in best], "_score")


@lru_cache(maxsize=1)
def _loaded(path: str, changed: float) -> tuple[Model, str]:
    """A run loaded once for many queries."""
    opened = open_model(path)
    return opened, weights_checksum(opened.system)


def _system(path: Path, metadata: Metadata, model: Any) -> Any:
    """The system that made the table.

    Raises:
        ValueError: its run is gone, or the given one has other weights.
    """
    maker = metadata["model"]
    source = model if model is not None else maker["path"]
    if source is None:
        raise ValueError(f"{path.name} was made by a {maker['system']} built in memory: pass that system as model=")
    if isinstance(source, str | Path):
        weights = Path(source).expanduser().resolve() / "model.safetensors"
        if model is None and not Path(source).is_dir():
            raise ValueError(
                f"{path.name} was made by {source}, which is not there any more: say where it went with "
                "model= (--model PATH)"
            )
        opened, checksum = _loaded(str(source), weights.stat().st_mtime if weights.is_file() else 0.0)
    else:
        opened = open_model(source)
        checksum = weights_checksum(opened.system)
    if checksum != maker["checksum"]:
        raise ValueError(
            f"{opened.path or type(opened.system).__name__} has other weights than the model that made "
            f"{path.name} ({maker['path'] or maker['system']}): their vectors cannot be compared; embed again"
        )
    return opened.system


def _target_space(metadata: Metadata, space: str | None) -> str:
    spaces = metadata["spaces"]
    if space is not None:
        if space not in spaces:
            raise ValueError(f"the table has no space {space!r}; it has {', '.join(spaces)}")
        return space
    return "image" if "image" in spaces else next(iter(spaces))


def _query_vector(system: Any, metadata: Metadata, target: str, query: str | None, image: Any) -> Tensor:
    """(D,) vector, or (n, D) tokens, of the query in a space that can be compared with `target`."""
    kind = "image" if image is not None else "text"
    row = {"id": "query", kind: image if image is not None else query}
    try:
        _, spaces = embed_all(system, [row], columns=(kind,))
    except ValueError as error:
        raise ValueError(f"the model that made this table cannot embed a query by {kind}: {error}") from error
    name = target if target in spaces else next(iter(spaces))
    if kind in spaces and target in ("image", "text"):
        name = kind  # the other half of a shared space
    vector = spaces[name][0]
    if not vector.any():
        raise ValueError(f"the model gives this query the zero vector, which is near to nothing: {query!r}")
    if vector.dim() == 2:
        vector = vector[vector.any(dim=1)]  # zero tokens are padding
    wanted = metadata["spaces"][target]["dimensions"]
    if vector.shape[-1] != wanted:
        raise ValueError(f"a query by {kind} has {vector.shape[-1]} dimensions, space {target!r} has {wanted}")
    return vector
