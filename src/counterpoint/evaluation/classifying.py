"""A model's own classes for the rows of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.evaluation.task import Task

__all__ = ["classified"]


def classified(task: Task, places: Sequence[int], names: Sequence[str] | None = None) -> list[tuple[int, Tensor]]:
    """(place, (K,) probabilities) of the rows at `places` that can be used; the others are listed as skipped.

    Args:
        task: whose system has a `classify` for rows.
        places: of the rows; a batch with a bad row is done row by row.
        names: of the classes, for a `classify` that takes `class_names`; None for its own.
    """
    usable: list[tuple[int, Any]] = []
    for place in places:
        try:
            usable.append((place, task.rows[place]))
        except BadRow as error:
            task.skipped[task.rows.row_id(place)] = str(error)
    options = {} if names is None else {"class_names": list(names)}
    try:
        found = task.system.classify([row for _, row in usable], **options) if usable else []
    except BadRow as error:
        if len(places) == 1:
            task.skipped[task.rows.row_id(places[0])] = str(error)
            return []
        return [pair for place in places for pair in classified(task, [place], names)]
    return [(place, probabilities) for (place, _), probabilities in zip(usable, found, strict=True)]
