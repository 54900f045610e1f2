"""Pictures enhanced at their own resolution, as files, each also beside its original."""

from __future__ import annotations

import hashlib
import io
import re
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

__all__ = ["answers", "beside", "file_name", "offered"]

FOLDERS = ("enhanced", "beside")
"""Where pictures are written, below `out`."""
_ROWS_READ = 8
"""Rows in memory: they may hold the bytes of their pictures."""
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_ENDINGS = (*_JPEG, ".png")
_ADDED = ".enhanced.png"
_LARGEST_SIDE = 1024
"""Pixels of each half of the picture that shows both."""
_GAP = 8
_LONGEST_NAME = 180
"""Bytes of a part of a path; file systems take 255, and endings come to it."""


def offered(model: Any, options: Options) -> bool:
    """Models with an `enhance` method."""
    return hasattr(model, "enhance")


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a picture: id, size, mean value before and after (in [0, 1]), and the two files, relative to `out`.

    `enhanced/NAME` has every pixel of the original and its name; a JPEG stays one (quality 95), anything else becomes
    a PNG. `beside/NAME.jpg` shows the original on the left and the result on the right, each at most 1024 pixels wide
    and high. Pictures are worked on one at a time, whatever `batch` and `workers` say; a large one in strips.
    """
    for position, row in enumerate(rows.scan(_ROWS_READ)):
        identity = rows.row_id(position)
        try:
            if isinstance(row, BadRow):
                raise row
            yield {"id": identity, **_answer(opened.system, row, identity, options.out)}
        except BadRow as error:
            skipped.append(Skipped(identity, str(error)))


def _answer(system: Any, row: Mapping[str, Any], identity: str, out: Path) -> dict[str, Any]:
    if row.get("image") is None:
        raise BadRow("no picture in the column 'image'")
    original = read_picture(row["image"])
    result = enhanced(system, original)
    name = file_name(identity)
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


def file_name(identity: str) -> Path:
    """A relative path for a row's id, different for different ids: the id itself where that can be a picture's name.

    An id that does not end like a PNG or a JPEG gets `.enhanced.png`. What no file may be called is replaced, and a
    part of the id's hash is added.
    """
    ending = Path(identity).suffix.lower()
    name = identity if ending in _ENDINGS else f"{identity}{_ADDED}"
    parts = []
    for part in name.split("/"):
        clean = re.sub(r'[\x00-\x1f<>:"\\|?*]', "_", part).strip(". ") or "_"
        parts.append(clean.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore"))
    path = Path(*parts)
    if path.as_posix() == name and not identity.endswith(_ADDED):
        return path
    mark = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:10]
    stem = path.stem if path.suffix.lower() in _ENDINGS else path.name
    return path.with_name(f"{stem}-{mark}{ending if ending in _ENDINGS else _ADDED}")


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
    if path.suffix.lower() in _JPEG:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        Image.fromarray(pixels).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_bytes(path, buffer.getvalue())
