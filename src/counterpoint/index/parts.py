"""Rows and their vectors as pieces of a table: what every engine of `embed` computes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from counterpoint.data import BadRow, Rows
from counterpoint.data.images import decode
from counterpoint.data.videos import open_video
from counterpoint.evaluation.embedding import Skipped, embed_rows
from counterpoint.index.layout import Spaces, record_batch
from counterpoint.system import System

__all__ = ["Part", "Request", "embedded_parts"]


class Part(NamedTuple):
    """Some rows as they go into the table.

    Attributes:
        table: (N rows) plain columns, and a column of vectors for each space.
        spaces: what the rows have vectors in.
        positions: (N,) int64, where in the embedded rows each of them stood.
    """

    table: pa.Table
    spaces: Spaces
    positions: np.ndarray

    def cut(self, start: int, stop: int) -> Part:
        """Its rows from `start` to before `stop`."""
        return Part(self.table.slice(start, stop - start), self.spaces, self.positions[start:stop])


class Request(NamedTuple):
    """How rows are embedded; see the arguments of `embed` with these names."""

    batch: int
    workers: int
    spaces: Sequence[str] | None
    thumbnail: int
    fast: bool = False


def embedded_parts(system: System, rows: Rows, request: Request, skipped: list[Skipped]) -> Iterator[Part]:
    """Rows with their vectors, in order, up to `request.batch` at once; those of a part have the same spaces.

    `skipped` gets the rows that gave no vector. Raises ValueError: a wanted space does not exist.
    """
    source = _readable(rows)
    found = embed_rows(system, rows, batch=request.batch, workers=request.workers, fast=request.fast, skipped=skipped)
    for ids, vectors in found:
        chosen = _select_spaces(vectors, request.spaces)
        positions, plain = [], []
        for place, identity in enumerate(ids):
            position, row = next(source)
            while row["id"] != identity:  # rows that were left out stand between
                position, row = next(source)
            positions.append(position)
            own = {space: values[place] for space, values in chosen.items()}
            plain.append(_plain_columns(row, rows.class_names, request.thumbnail) | {"vectors": own})
        spaces = {
            space: {"dimensions": int(values.shape[-1]), "tokens": values.dim() == 3}
            for space, values in chosen.items()
        }
        yield Part(record_batch(plain, spaces), spaces, np.array(positions, dtype=np.int64))


def _readable(rows: Rows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((position, row) for position, row in enumerate(rows.scan()) if not isinstance(row, BadRow))


def _select_spaces(spaces: dict[str, Tensor], wanted: Sequence[str] | None) -> dict[str, Tensor]:
    if wanted is None:
        return spaces
    unknown = [name for name in wanted if name not in spaces]
    if unknown:
        raise ValueError(f"the model has no space {unknown[0]!r} for these rows; it has {', '.join(spaces)}")
    return {name: spaces[name] for name in wanted}


def _plain_columns(row: Mapping[str, Any], class_names: Sequence[str] | None, thumbnail: int) -> dict[str, Any]:
    image, label = row.get("image"), row.get("label")
    media = image if image is not None else row.get("video")
    if class_names is not None and label is not None:
        label = class_names[label]
    path = row.get("path", media)
    text = row.get("text")
    return {
        "id": row["id"],
        "text": None if text is None else str(text),
        "label": None if label is None else str(label),
        "source": row.get("source"),
        "path": str(path) if isinstance(path, str | PurePath) else None,
        "thumbnail": _thumbnail(image, row.get("video"), thumbnail) if thumbnail and media is not None else None,
    }


def _thumbnail(image: Any, video: Any, side: int) -> bytes | None:
    """A small WebP of the picture, or of the middle frame of the video; None where it cannot be read."""
    try:
        picture = decode(_middle(video, side) if image is None else image, smallest_side=side)
    except BadRow:
        return None  # the model may have read something else of this row
    picture.thumbnail((side, side))
    target = io.BytesIO()
    picture.save(target, "WEBP", quality=80)
    return target.getvalue()


def _middle(video: Any, side: int) -> np.ndarray:
    """(H, W, 3) uint8: the frame in the middle of a film."""
    with open_video(video) as film:
        return film.read([film.frames // 2], smallest_side=side)[0]
