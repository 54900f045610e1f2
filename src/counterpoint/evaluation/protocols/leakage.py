"""What each space of a model says of what is common to two data sets and of what is salient in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.evaluation.linear_probe import STRENGTHS, linear_probe
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task, Vectors, held_out_rows

__all__ = ["Leakage"]


@dataclass(frozen=True)
class Leakage(Protocol):
    """Logistic regression of every attribute on every space of a model (as in Louiset et al. 2024, arXiv 2402.11928).

    An attribute must be readable from its own space; what is readable from the other one has leaked. Rows with all
    attributes count, that is target rows. A model with one space has the same table with one column.

    Attributes:
        common: column with what both data sets have; None leaves it out.
        salient: column with what the target alone has; None leaves it out.
        strengths: values of C to choose from on training rows.
    """

    common: str | None = "label"
    salient: str | None = "salient"
    strengths: tuple[float, ...] = STRENGTHS

    def __post_init__(self) -> None:
        if not self._columns():
            raise ValueError("common and salient are both None: name the column of at least one attribute")

    def _columns(self) -> dict[str, str]:
        """Attribute -> its column."""
        wanted = {"common": self.common, "salient": self.salient}
        return {name: column for name, column in wanted.items() if column is not None}

    def check_columns(self, found: Sequence[str]) -> None:
        """Refuse data without the columns of the attributes."""
        missing = [column for column in self._columns().values() if column not in found]
        if missing:
            raise NotApplicable(
                f"needs the column {missing[0]!r}; found {', '.join(found) or 'none'}. Settings `common` and `salient` "
                "name the columns, and None leaves one out"
            )

    def run(self, task: Task) -> Measured:
        """Accuracy `<attribute>_from_<space>` on the scored rows; a guesser says the commonest value."""
        columns = self._columns()
        train, test, source = _parts(task, columns)
        scores: dict[str, float] = {}
        chance: dict[str, float] = {}
        strengths: dict[str, float] = {}
        for attribute in columns:
            numbers = {value: n for n, value in enumerate(sorted({*train.values[attribute], *test.values[attribute]}))}
            known, wanted = (torch.tensor([numbers[v] for v in part.values[attribute]]) for part in (train, test))
            if len(known.unique()) < 2:
                raise NotApplicable(f"needs two values of {columns[attribute]!r} to learn from, found {list(numbers)}")
            guess = float((wanted == known.bincount().argmax()).double().mean())
            for space, vectors in test.spaces.items():
                name = f"{attribute}_from_{space}"
                found = linear_probe(
                    train.spaces[space], known, vectors, wanted, strengths=self.strengths, seed=task.seed
                )
                scores[name], chance[name], strengths[name] = found.accuracy, guess, found.strength
        sizes = {"train_rows": len(train), "test_rows": len(test)}
        return Measured(scores, chance, {"train": source, **sizes, "strength": strengths})


@dataclass(frozen=True)
class _Part:
    """Rows that have every attribute.

    Attributes:
        spaces: space -> (N, D).
        values: attribute -> N values as text.
    """

    spaces: dict[str, Tensor]
    values: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def only(self, mask: Tensor) -> _Part:
        """The rows of a mask (N,)."""
        kept = mask.tolist()
        values = {name: [v for v, keep in zip(found, kept, strict=True) if keep] for name, found in self.values.items()}
        return _Part({name: vectors[mask] for name, vectors in self.spaces.items()}, values)


def _parts(task: Task, columns: dict[str, str]) -> tuple[_Part, _Part, str]:
    """(rows to learn from, rows to score, where the first come from); without training rows a fifth is scored."""
    test = _complete(task.test_vectors(), task.rows, columns)
    if task.train_rows is not None and set(columns.values()) <= set(task.train_rows.columns):
        train = _complete(task.embed(task.train_rows, key="train"), task.train_rows, columns)
        return _of_the_same_classes(train, task.rows, columns), test, task.train_source
    joint = list(zip(*test.values.values(), strict=True))
    places = {value: place for place, value in enumerate(dict.fromkeys(joint))}
    held_out = held_out_rows(torch.tensor([places[value] for value in joint]), task.seed)
    if len(set(held_out.tolist())) < 2:
        raise NotApplicable("needs rows to learn from, but no combination of the attributes is there twice")
    train, test = test.only(~held_out), test.only(held_out)
    return train, test, f"{len(train)} of the given rows; scored on the other {len(test)}"


def _of_the_same_classes(train: _Part, scored: Rows, columns: dict[str, str]) -> _Part:
    """Training rows of classes that the scored set has: not a background that is a class beside those of the target."""
    attribute = next((name for name, column in columns.items() if column == "label"), None)
    if attribute is None or scored.class_names is None:
        return train
    known = torch.tensor([value in scored.class_names for value in train.values[attribute]])
    if not bool(known.any()):
        raise NotApplicable(f"the training rows share no class with {scored.name}: {', '.join(scored.class_names)}")
    return train.only(known)


def _complete(vectors: Vectors, rows: Rows, columns: dict[str, str]) -> _Part:
    """Vectors and values of the embedded rows that have every attribute."""
    known = {name: _values(rows, column) for name, column in columns.items()}
    kept = [n for n, place in enumerate(vectors.positions) if all(v[place] is not None for v in known.values())]
    if not kept:
        raise NotApplicable(f"no row of {rows.name} has a value in {' and '.join(columns.values())}")
    places: np.ndarray = vectors.positions[kept]
    values = {name: [str(column[place]) for place in places] for name, column in known.items()}
    spaces = {space: found[kept] for space, found in vectors.spaces.items() if found.dim() == 2}  # no tokens
    if not spaces:
        raise NotApplicable("needs a model with one vector a row")
    return _Part(spaces, values)


def _values(rows: Rows, column: str) -> list[Any]:
    """A column with None for what is missing; class names in the place of class numbers."""
    values = rows.column(column)
    names = rows.class_names if column == "label" else None
    known = [None if value is None or value == "" else value for value in values]
    return known if names is None else [None if value is None else names[value] for value in known]
