"""Boxes around the things in a cloud of points, and a picture of them from above."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from counterpoint.data import Rows
from counterpoint.data.images import encode_png
from counterpoint.data.scans import read_points
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model
from counterpoint.predict.box_picture import draw_boxes
from counterpoint.predict.options import Options
from counterpoint.predict.pictures import answer_pictures, file_name
from counterpoint.storage import write_bytes

__all__ = ["answers", "offered"]

FOLDERS = ("from_above",)
"""Where pictures are written, below `out`."""
_SIDE = 900
_SEEN = 0.3
"""Score from which on a box is drawn; the lines list all."""


def offered(model: Any, options: Options) -> bool:
    """Models with a `detect` method."""
    return hasattr(model, "detect")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a cloud: id, boxes, best first, and the picture; metres and radians in the frame of the points.

    A box has a label, a score, the centre, length, width and height, and the yaw of its front, from x towards y.
    `from_above/NAME.png` shows those with a score of 0.3 and more. Clouds are worked on one at a time, whatever `batch`
    and `workers` say.

    Raises:
        ValueError: classes were given: the model has its own.
    """
    if options.class_names:
        raise ValueError("this model has its own classes: leave out `classes`")
    yield from answer_pictures(
        rows, skipped, lambda row, name: _answer(opened.system, row, name, options.out), column="points"
    )


def _answer(system: Any, row: Mapping[str, Any], identity: str, out: Path) -> dict[str, Any]:
    (boxes,) = system.detect([row])
    seen = [box for box in boxes if box["score"] >= _SEEN]
    name = file_name(identity)
    place = Path(FOLDERS[0]) / name.with_name(f"{name.name}.png")
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out / place, encode_png(draw_boxes(read_points(row["points"]), seen, system.class_names, _SIDE)))
    return {"boxes": boxes, "from_above": place.as_posix()}
