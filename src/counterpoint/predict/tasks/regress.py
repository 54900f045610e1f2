"""A number for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model
from counterpoint.predict.options import Options

__all__ = ["answers", "offered"]


def offered(model: Any, options: Options) -> bool:
    """Models with a `regress` method."""
    return hasattr(model, "regress")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a row: id and target, in the unit of the targets that the model learnt from."""
    for place, row in enumerate(rows.scan()):
        try:
            if isinstance(row, BadRow):
                raise row
            yield {"id": row["id"], "target": float(opened.system.regress([row])[0])}
        except BadRow as error:
            skipped.append(Skipped(rows.row_id(place), str(error)))
