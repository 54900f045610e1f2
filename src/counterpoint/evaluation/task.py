"""What a protocol sees of one evaluation: system, rows, labels, and vectors that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.evaluation.embedding import DEFAULT_SPACE, NothingEmbedded, Skipped, embed_all
from counterpoint.evaluation.protocol import NotApplicable
from counterpoint.evaluation.retrieval import cosine
from counterpoint.evaluation.samples import MissingColumn
from counterpoint.evaluation.scoring import system_score

__all__ = ["Labelled", "Task", "Vectors", "main_space"]

_HELD_OUT = 0.2


class Vectors(NamedTuple):
    """Vectors of the rows that could be embedded, and the positions of these rows."""

    positions: np.ndarray
    spaces: dict[str, Tensor]

    @property
    def main(self) -> Tensor:
        """The space that stands for the row itself."""
        return self.spaces[main_space(self.spaces)]


class Labelled(NamedTuple):
    """(N, D) vectors and (N,) class numbers."""

    vectors: Tensor
    labels: Tensor


def main_space(spaces: Sequence[str] | dict[str, Tensor]) -> str:
    """The unnamed space, else that of the image, else the first."""
    for name in (DEFAULT_SPACE, "image"):
        if name in spaces:
            return name
    return next(iter(spaces))


class Task:
    """One evaluation of one system on one set of rows.

    Attributes:
        system: what is evaluated.
        rows: the rows that are scored.
        train_rows: labelled rows of the same classes that probes may learn from; None when there are none.
        train_source: where `train_rows` come from, in words.
        seed: of every draw.
    """

    def __init__(
        self,
        system: Any,
        rows: Rows,
        *,
        train_rows: Rows | None = None,
        train_source: str = "",
        seed: int = 0,
        batch: int = 64,
        workers: int = 0,
    ) -> None:
        self.system, self.rows = system, rows
        self.train_rows, self.train_source = train_rows, train_source
        self.seed, self.batch, self.workers = seed, batch, workers
        self.skipped: dict[str, str] = {}
        self._cache: dict[Any, Vectors] = {}

    def rng(self) -> np.random.Generator:
        """A fresh generator with the task's seed."""
        return np.random.default_rng(self.seed)

    def embed(self, rows: Rows, columns: Sequence[str] | None = None, *, key: str) -> Vectors:
        """Vectors of `rows`, computed once per `key` and columns.

        Raises:
            NotApplicable: the model cannot embed such rows.
        """
        known = (key, None if columns is None else tuple(columns))
        if known not in self._cache:
            if not hasattr(self.system, "embed"):
                raise NotApplicable(f"{type(self.system).__name__} has no embed()")
            skipped: list[Skipped] = []
            try:
                ids, spaces = embed_all(
                    self.system,
                    rows,
                    batch=self.batch,
                    workers=self.workers,
                    columns=columns,
                    skipped=skipped,
                )
            except (MissingColumn, NothingEmbedded) as error:
                raise NotApplicable(str(error)) from error
            self.skipped.update({row.id: row.reason for row in skipped})
            places = {identity: position for position, identity in enumerate(rows.column("id"))}
            self._cache[known] = Vectors(np.array([places[identity] for identity in ids]), spaces)
        return self._cache[known]

    def test_vectors(self) -> Vectors:
        """Vectors of the rows that are scored."""
        return self.embed(self.rows, key="test")

    def texts(self, texts: Sequence[str], *, key: str, space: str | None = None) -> Tensor:
        """(N, D) vectors of bare texts.

        Raises:
            NotApplicable: the model does not embed texts.
        """
        rows = Rows.from_list([{"text": text} for text in texts])
        spaces = self.embed(rows, ("text",), key=key).spaces
        return spaces[space or ("text" if "text" in spaces else main_space(spaces))]

    def score(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Similarity of two sets of vectors: the system's own where it has one, else the cosine."""
        return system_score(self.system) or cosine

    def pair_scores(self, vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(P,) similarity of row first[p] and row second[p] of `vectors`."""
        own = system_score(self.system)
        if own is None:
            return torch.cosine_similarity(vectors[first], vectors[second])
        return torch.cat([own(vectors[a, None], vectors[b, None])[0] for a, b in zip(first, second, strict=True)])

    def labels(self, rows: Rows) -> list[Any]:
        """The label of each row, the name of its class where classes have names; None without label."""
        labels = rows.column("label")
        if rows.class_names is None:
            return labels
        return [None if label is None else rows.class_names[label] for label in labels]

    def labelled(self) -> Labelled:
        """Main vectors and class numbers of the scored rows that have a label."""
        labels = self.labels(self.rows)
        return _labelled(self.test_vectors(), labels, _numbering(labels))

    def labelled_parts(self) -> tuple[Labelled, Labelled, str]:
        """(rows to learn from, rows to score, where the first come from). Class numbers agree.

        Without training rows, a fifth of the given rows of each class is scored and the rest is learnt from.
        """
        test_labels = self.labels(self.rows)
        if self.train_rows is not None:
            train_labels = self.labels(self.train_rows)
            numbers = _numbering(train_labels + test_labels)
            if not set(train_labels) & set(test_labels) - {None}:
                raise NotApplicable(f"shares no class with its training rows ({self.train_source})")
            train = _labelled(self.embed(self.train_rows, key="train"), train_labels, numbers)
            return train, _labelled(self.test_vectors(), test_labels, numbers), self.train_source
        whole = _labelled(self.test_vectors(), test_labels, _numbering(test_labels))
        held_out = held_out_rows(whole.labels, self.seed)
        train, test = (Labelled(whole.vectors[part], whole.labels[part]) for part in (~held_out, held_out))
        if not len(train.labels) or not len(test.labels):
            raise NotApplicable(
                "needs rows to learn from, but every class has a single row here; give train_data with labelled rows"
            )
        return (
            train,
            test,
            f"{int((~held_out).sum())} of the given rows; scored on the other {int(held_out.sum())}",
        )


def held_out_rows(labels: Tensor, seed: int) -> Tensor:
    """(N,) mask of a fifth of each class, at least one row of every class that has two."""
    rng = np.random.default_rng(seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0].numpy()
        count = max(1, round(_HELD_OUT * len(members))) if len(members) > 1 else 0
        mask[rng.permutation(members)[:count]] = True
    return mask


def _numbering(labels: Sequence[Any]) -> dict[Any, int]:
    distinct = {label for label in labels if label is not None}
    return {label: number for number, label in enumerate(sorted(distinct, key=lambda label: (str(type(label)), label)))}


def _labelled(vectors: Vectors, labels: Sequence[Any], numbers: dict[Any, int]) -> Labelled:
    kept = [row for row, position in enumerate(vectors.positions) if labels[position] is not None]
    found = [numbers[labels[vectors.positions[row]]] for row in kept]
    if len(set(found)) < 2:
        raise NotApplicable(f"needs at least two classes, found {len(set(found))}")
    return Labelled(vectors.main[kept], torch.tensor(found, dtype=torch.int64))
