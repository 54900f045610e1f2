"""Some rows of a run's data with their vectors, pictures and words: what a report is illustrated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from counterpoint.data import BadRow, Rows, list_builtins, open_rows, open_sources
from counterpoint.data.open import builtin_module
from counterpoint.evaluation.embedding import embed_all
from counterpoint.evaluation.retrieval import cosine
from counterpoint.evaluation.scoring import system_score
from counterpoint.evaluation.task import main_space
from counterpoint.reporting.thumbnails import drawn_column, thumbnail
from counterpoint.run import Run

__all__ = ["Sample", "open_report_rows", "take_sample"]

_SIDE = 128


@dataclass(frozen=True)
class Sample:
    """Rows that could be embedded, in order.

    Attributes:
        system: what embedded them.
        rows: N rows.
        spaces: space -> (N, D), or (N, L, D) for token spaces.
        pictures: N thumbnails, or None where the rows have nothing to draw.
        texts: N texts, or None.
        labels: N names of classes, or None.
        source: where the rows come from, in words.
        column: what the thumbnails show: "image", "video" ...
    """

    system: Any
    rows: Sequence[Mapping[str, Any]]
    spaces: dict[str, Tensor]
    pictures: list[Image.Image] | None
    texts: list[str] | None
    labels: list[str] | None
    source: str
    column: str = "image"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def main(self) -> Tensor:
        """The space that stands for the row itself."""
        return self.spaces[main_space(self.spaces)]

    @property
    def captioned(self) -> bool:
        """Pictures (or clips, recordings, scans) and texts in one space."""
        both = {self.column, "text"} <= set(self.spaces)
        return both and self.pictures is not None and self.texts is not None

    def score(self, queries: Tensor, keys: Tensor) -> np.ndarray:
        """(Q, K) similarity, the system's own where it has one."""
        return (system_score(self.system) or cosine)(queries, keys).numpy()

    def flat(self) -> np.ndarray:
        """(N, D) vectors for a map; tokens are averaged."""
        vectors = self.main
        if vectors.dim() == 3:
            vectors = torch.nn.functional.normalize(vectors, dim=-1).mean(dim=1)
        return vectors.numpy()

    def words(self, place: int) -> str:
        """What a row says of itself."""
        parts = [found[place] for found in (self.texts, self.labels) if found is not None]
        return parts[0] if parts else str(self.rows[place]["id"])


def open_report_rows(run: Run, data: Any, columns: Mapping[str, str] | None) -> Rows:
    """The rows that are shown: those that are given, else the held-out rows of the run's own data.

    Raises:
        ValueError: the run does not name its data, or they are not there any more.
    """
    if data is not None:
        return open_rows(data, columns=columns, split=_held_out(data))
    named = [str(name) for name in run.config.get("data") or []]
    if not named:
        raise ValueError("the run does not name its data")
    columns = {**run.config.get("columns", {}), **(columns or {})}
    if len(named) == 1:
        return open_rows(named[0], columns=columns or None, split=_held_out(named[0]))
    return open_sources(named, columns=columns or None)


def _held_out(data: Any) -> str | None:
    """The test or validation split of a built-in set that is named without one."""
    if not isinstance(data, str) or data not in list_builtins():
        return None
    splits = tuple(builtin_module(data).SPLITS)
    return next((name for name in ("test", "validation") if name in splits), splits[0])


def take_sample(system: Any, rows: Rows, count: int, seed: int) -> Sample:
    """At most `count` rows, drawn with `seed`, with their vectors.

    Raises:
        ValueError: none of them can be embedded by this system.
    """
    places = np.arange(len(rows))
    if len(rows) > count:
        places = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    chosen = rows.select(places)
    ids, spaces = embed_all(system, chosen)
    found = {row["id"]: row for row in chosen.scan() if not isinstance(row, BadRow)}
    kept = [found[identity] for identity in ids]
    column = drawn_column(rows.columns) or "image"
    return Sample(
        system=system,
        rows=kept,
        spaces=spaces,
        pictures=_pictures(kept, column),
        texts=_texts(kept),
        labels=_labels(kept, rows.class_names),
        source=f"{len(kept)} of the {len(rows)} rows of {rows.name}",
        column=column,
    )


def _pictures(rows: Sequence[Mapping[str, Any]], column: str) -> list[Image.Image] | None:
    if any(row.get(column) is None for row in rows):
        return None
    return [thumbnail(column, row[column], _SIDE) for row in rows]


def _texts(rows: Sequence[Mapping[str, Any]]) -> list[str] | None:
    found = []
    for row in rows:
        text = row.get("text")
        text = text[0] if isinstance(text, list | tuple) and text else text
        if not isinstance(text, str):
            return None
        found.append(text)
    return found


def _labels(rows: Sequence[Mapping[str, Any]], names: list[str] | None) -> list[str] | None:
    if any(row.get("label") is None for row in rows):
        return None
    if names is None:
        return [str(row["label"]) for row in rows]
    return [names[int(row["label"])] for row in rows]
