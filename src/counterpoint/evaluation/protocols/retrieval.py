"""Retrieval between images or videos and texts, or from queries to their passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.retrieval import chance_metrics, rank_gallery, same_group
from counterpoint.evaluation.task import Task

__all__ = ["Retrieval"]

_COMPARED = (str, int, PurePath)


@dataclass(frozen=True)
class Retrieval(Protocol):
    """Every query against all rows of the other side; rows of one group are equally right.

    With images (or videos) and texts: recall@k in both directions, where a hit is any right row among the first k. Rows
    with the same `group`, the same text or the same picture file belong together. With `query` and `positive`
    columns: nDCG, recall and MRR over all distinct positives.

    Attributes:
        at: cut-offs.
    """

    at: tuple[int, ...] = (1, 5, 10)

    def check_columns(self, found: Sequence[str]) -> None:
        """Refuse data with neither pair of columns."""
        pairs = (("image", "text"), ("video", "text"), ("query", "positive"))
        if not any(set(pair) <= set(found) for pair in pairs):
            raise NotApplicable(
                "needs the columns 'image' (or 'video') and 'text', or 'query' and 'positive'; "
                f"found {', '.join(found) or 'none'}"
            )

    def run(self, task: Task) -> Measured:
        """Measures by direction, with chance beside each."""
        if {"query", "positive"} <= set(task.rows.columns):
            return self._passages(task)
        return self._media_text(task)

    def _media_text(self, task: Task) -> Measured:
        vectors = task.test_vectors()
        media = "image" if "image" in task.rows.columns else "video"
        if not {media, "text"} <= set(vectors.spaces):
            others = ", ".join(vectors.spaces)
            raise NotApplicable(f"needs a model with a space of {media}s and one of texts; it has {others}")
        groups = _groups(task.rows, vectors.positions.tolist())
        right = groups.bincount()[groups]  # (N,) rows of each row's own group
        expected = chance_metrics(right, len(groups), at=self.at)
        scores: dict[str, float] = {}
        chance: dict[str, float] = {}
        for source, target in (("text", media), (media, "text")):
            found = rank_gallery(
                vectors.spaces[source],
                vectors.spaces[target],
                same_group(groups, groups),
                at=self.at,
                score=task.score(),
            )
            for k in self.at:
                name = f"{source}_to_{target}_recall@{k}"
                scores[name], chance[name] = float(found[f"hit@{k}"].mean()), expected[f"hit@{k}"]
        return Measured(scores, chance, {"gallery": len(groups), "groups": len(groups.unique())})

    def _passages(self, task: Task) -> Measured:
        asked, passages, answers = _pairs(task.rows)
        queries, gallery = task.texts(asked, key="queries"), task.texts(passages, key="passages")

        def relevance(rows: slice) -> Tensor:
            tile = torch.zeros(len(asked[rows]), len(passages))
            for row, places in enumerate(answers[rows]):
                tile[row, places] = 1
            return tile

        found = rank_gallery(queries, gallery, relevance, at=self.at, score=task.score())
        right = torch.tensor([len(places) for places in answers])
        expected = chance_metrics(right, len(passages), at=self.at)
        names = [f"{kind}@{k}" for kind in ("ndcg", "recall") for k in self.at] + ["mrr"]
        return Measured(
            {name: float(found[name].mean()) for name in names},
            {name: expected[name] for name in names},
            {"queries": len(asked), "passages": len(passages)},
        )


def _pairs(rows: Rows) -> tuple[list[str], list[str], list[list[int]]]:
    """Distinct queries, distinct passages, and which passages answer each query."""
    answers: dict[str, set[int]] = {}
    places: dict[str, int] = {}
    for query, positive in zip(rows.column("query"), rows.column("positive"), strict=True):
        if query is None or positive is None:
            continue
        for passage in positive if isinstance(positive, list | tuple) else [positive]:
            answers.setdefault(query, set()).add(places.setdefault(passage, len(places)))
    if not answers:
        raise NotApplicable("no row has both a query and a positive")
    return list(answers), list(places), [sorted(found) for found in answers.values()]


def _groups(rows: Rows, positions: Sequence[int]) -> Tensor:
    """(N,) group numbers: rows that share the group, the text or the picture file are in one group."""
    parent = list(range(len(positions)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for name in ("group", "text", "image", "video"):
        if name not in rows.columns or not isinstance(rows[positions[0]].get(name), _COMPARED):
            continue  # pictures that are no files are not read all at once to be compared
        values = rows.column(name)
        first: dict[Any, int] = {}
        for row, position in enumerate(positions):
            value = values[position]
            if value is not None and isinstance(value, _COMPARED):
                parent[root(row)] = root(first.setdefault(value, row))
    return torch.tensor([root(row) for row in range(len(positions))]).unique(return_inverse=True)[1]
