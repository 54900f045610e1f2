"""Pictures enhanced at their own resolution, as files, each also beside its original."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from counterpoint import storage
from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.enhancing import enhanced, read_picture
from counterpoint.evaluation.model import Model
from counterpoint.predict.options import Options
from counterpoint.predict.pictures import JPEG, answer_pictures, file_name

__all__ = ["answers", "beside", "offered"]

FOLDERS = ("enhanced", "beside")
"""Where pictures are written, below `out`."""
_ADDED = ".enhanced.png"
"""Put behind an id that does not end like a PNG or a JPEG."""
_LARGEST_SIDE = 1024
"""Pixels of each half of the picture that shows both."""
_GAP = 8


def offered(model: Any, options: Options) -> bool:
    """Models with an `enhance` method."""
    return hasattr(model, "enhance")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a picture: id, size, mean value before and after (in [0, 1]), and the two files, relative to `out`.

    `enhanced/NAME` has every pixel of the original and its name; a JPEG stays one (quality 95), anything else becomes
    a PNG. `beside/NAME.jpg` shows the original on the left and the result on the right, each at most 1024 pixels wide
    and high. Pictures are worked on one at a time, whatever `batch` and `workers` say; a large one in strips.
    """
    yield from answer_pictures(rows, skipped, lambda row, name: _answer(opened.system, row, name, options.out))


def _answer(system: Any, row: Mapping[str, Any], identity: str, out: Path) -> dict[str, Any]:
    original = read_picture(row["image"])
    result = enhanced(system, original)
    name = file_name(identity, added=_ADDED)
    both = name.with_name(f"{name.name}.jpg")
    contents = {"enhanced": (name, result), "beside": (both, beside(original, result))}
    for folder, (place, pixels) in contents.items():
        _write(out / folder / place, pixels, row["image"])
    return {
        "width": original.shape[1],
        "height": original.shape[0],
        "mean_before": float(original.mean() / 255),
        "mean_after": float(result.mean() / 255),
        **{folder: f"{folder}/{place.as_posix()}" for folder, (place, _) in contents.items()},
    }


def beside(original: np.ndarray, result: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 twice -> one picture with both, made smaller where they are large, and a white gap between."""
    halves = []
    for pixels in (original, result):
        half = Image.fromarray(pixels)
        half.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
        halves.append(np.asarray(half))
    gap = np.full((halves[0].shape[0], _GAP, 3), 255, dtype=np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def _write(path: Path, pixels: np.ndarray, original: Any) -> None:
    """A picture file, whole or not at all; never in the place of the original."""
    if isinstance(original, str | Path) and path.exists() and path.samefile(original):
        raise BadRow(f"the answer would take the place of the original {original}: give another out")
    buffer = io.BytesIO()
    if path.suffix.lower() in JPEG:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        Image.fromarray(pixels).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(path, buffer.getvalue())
