"""The class of every pixel or point: class numbers as a file, a picture of them in colours, and shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data import Rows
from counterpoint.data.images import decode, encode_png
from counterpoint.data.ply import write_ply
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model
from counterpoint.evaluation.point_segmenting import segmented_cloud, takes_points
from counterpoint.evaluation.segmenting import segmented
from counterpoint.predict.cloud_picture import draw_cloud
from counterpoint.predict.options import Options
from counterpoint.predict.overlay import class_colours, overlay
from counterpoint.predict.pictures import answer_pictures, file_name
from counterpoint.storage import write_bytes

__all__ = ["answers", "offered"]

FOLDERS = ("masks", "overlays", "clouds", "views")
"""Where pictures and clouds are written, below `out`."""
_SIDE = 800
"""Pixels across the picture of a cloud."""


def offered(model: Any, options: Options) -> bool:
    """Models with a `segment` method."""
    return hasattr(model, "segment")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a picture: id, size, the classes found with their shares of the pixels, and two files.

    `masks/NAME.png` holds the class number of every pixel (8 bits, 16 from 256 classes on), `overlays/NAME.png` the
    picture with the classes in colours; the line says which. Both have the size of the upright picture. Pictures are
    worked on one at a time, whatever `batch` and `workers` say.

    Of point clouds: how many points there are and were left out (not finite), the shares of the points, and two files:
    `clouds/NAME.ply` holds the points with their class as `label`, `views/NAME.png` shows them in colours from above
    and from the side.

    Raises:
        ValueError: classes were given: the model has its own.
    """
    if options.class_names:
        raise ValueError("this model has its own classes: leave out `classes`")
    system = opened.system
    if takes_points(system):
        yield from answer_pictures(
            rows, skipped, lambda row, name: _answer_cloud(system, row, name, options.out), column="points"
        )
        return
    yield from answer_pictures(rows, skipped, lambda row, name: _answer(system, row, name, options.out))


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


def _answer_cloud(system: Any, row: Mapping[str, Any], identity: str, out: Path) -> dict[str, Any]:
    cloud, labels = segmented_cloud(system, row)
    names = getattr(system, "class_names", None)
    name = file_name(identity)
    written = {"cloud": Path("clouds") / f"{name}.ply", "view": Path("views") / f"{name}.png"}
    for place in written.values():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
    write_ply(out / written["cloud"], {**cloud, "label": labels})
    picture = draw_cloud(cloud["xyz"], class_colours(int(labels.max()) + 1)[labels], _SIDE)
    write_bytes(out / written["view"], encode_png(picture))
    lost = int(cloud.get("total", len(labels))) - len(labels)
    shares = _shares(labels, names)
    return {"points": len(labels), "left_out": lost, "classes": shares, **{k: v.as_posix() for k, v in written.items()}}


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
