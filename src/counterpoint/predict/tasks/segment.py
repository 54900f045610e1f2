"""The class of every pixel: a picture of class numbers, the picture with the classes in colours, and shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data import Rows
from counterpoint.data.images import decode, encode_png
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model
from counterpoint.evaluation.segmenting import segmented
from counterpoint.predict.options import Options
from counterpoint.predict.overlay import class_colours, overlay
from counterpoint.predict.pictures import answer_pictures, file_name
from counterpoint.storage import write_bytes

__all__ = ["answers", "offered"]

FOLDERS = ("masks", "overlays")
"""Where pictures are written, below `out`."""


def offered(model: Any, options: Options) -> bool:
    """Models with a `segment` method."""
    return hasattr(model, "segment")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a picture: id, size, the classes found with their shares of the pixels, and two files.

    `masks/NAME.png` holds the class number of every pixel (8 bits, 16 from 256 classes on), `overlays/NAME.png` the
    picture with the classes in colours; the line says which. Both have the size of the upright picture. Pictures are
    worked on one at a time, whatever `batch` and `workers` say.

    Raises:
        ValueError: classes were given: the model has its own.
    """
    if options.class_names:
        raise ValueError("this model has its own classes: leave out `classes`")
    yield from answer_pictures(rows, skipped, lambda row, name: _answer(opened.system, row, name, options.out))


def _answer(system: Any, row: Mapping[str, Any], identity: str, out: Path) -> dict[str, Any]:
    picture = np.array(decode(row["image"]))
    labels = segmented(system, picture)
    names = getattr(system, "class_names", None)
    files = {
        "mask": (Path("masks"), labels.astype(np.uint8 if labels.max() < 256 else np.uint16)),
        "overlay": (Path("overlays"), overlay(picture, labels, names)),
    }
    name = file_name(identity)
    written = {}
    for kind, (folder, pixels) in files.items():
        place = folder / name.with_name(f"{name.name}.png")
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out / place, encode_png(pixels))
        written[kind] = place.as_posix()
    return {"width": picture.shape[1], "height": picture.shape[0], "classes": _shares(labels, names), **written}


def _shares(labels: np.ndarray, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Classes in the picture, the largest first."""
    counts = np.bincount(labels.ravel())
    colours = class_colours(len(counts))
    found = sorted(np.flatnonzero(counts).tolist(), key=lambda number: (-counts[number], number))
    return [
        {
            "label": str(number) if names is None else names[number],
            "number": number,
            "share": float(counts[number] / labels.size),
            "colour": "#" + colours[number].tobytes().hex(),
        }
        for number in found
    ]
