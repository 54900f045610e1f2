"""What is said in a recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model
from counterpoint.predict.options import Options

__all__ = ["answers", "offered"]


def offered(model: Any, options: Options) -> bool:
    """Models with a `transcribe` method."""
    return hasattr(model, "transcribe")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a recording: id, text, and the seconds it lasts. Worked on one at a time, whatever `batch` says.

    Raises:
        ValueError: classes were given: a transcript has none.
    """
    if options.class_names:
        raise ValueError("a transcript has no classes: leave out `classes`")
    for place, row in enumerate(rows.scan()):
        try:
            if isinstance(row, BadRow):
                raise row
            (found,) = opened.system.transcribe([row])
        except BadRow as error:
            skipped.append(Skipped(rows.row_id(place), str(error)))
            continue
        yield {"id": row["id"], **found}
