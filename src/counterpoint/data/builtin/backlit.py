"""Photographs darkened in the middle by a known function, as if lit from behind, and others left as they are.

Pieces of 17 photographs (15 of `photos`, the two of scikit-learn), 64 x 64 pixels: a random square with a third to all
of the shorter side, taken when its mean value lies between 0.35 and 0.75 of white. Every second piece is darkened by
`darkened`: each pixel is multiplied by

    L = 1 - depth exp(-(dx^2 + dy^2) / (2 spread^2)),    depth in [0.6, 0.85], spread in [0.2, 0.45] of the side,

with the centre anywhere in the middle half of the picture, and rounded to 8 bits. Columns:
    image: PNG.
    source: "backlit" for darkened pieces, "welllit" for the others; `label` is the same as a class.
    target: the piece before it was darkened, PNG; none for well-lit pieces. Methods that learn without pairs read
        `image` and `source` only; no piece is in both.

Splits train (600), validation (200) and test (400), half of each backlit, from different photographs. All numbers are
drawn from seeds, so the pictures are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from counterpoint.data.builtin import photos
from counterpoint.data.images import decode, encode_png
from counterpoint.data.package_rows import made_once
from counterpoint.data.packages import find_package
from counterpoint.data.rows import Rows

SPLITS = ("train", "validation", "test", "all")
NEEDS = photos.NEEDS
LICENCE = f"{photos.LICENCE}; china.jpg and flower.jpg of scikit-learn: CC BY 2.0 (danielbuechele, vultilion, flickr)"

SIDE = 64  # pixels
COUNTS = {"train": 600, "validation": 200, "test": 400}
CLASSES = ("backlit", "welllit")
_PHOTOGRAPHS = {
    "train": (
        "astronaut",
        "brick",
        "camera",
        "coffee",
        "coins",
        "gravel",
        "ihc",
        "motorcycle-left",
        "motorcycle-right",
        "page",
        "text",
    ),
    "validation": ("china", "clock-motion", "grass"),
    "test": ("chelsea", "flower", "rocket"),
}
_WELL_LIT = (0.35, 0.75)  # mean value of a piece
_DEPTH, _SPREAD, _CENTRE = (0.6, 0.85), (0.2, 0.45), (0.25, 0.75)
_REVISION = 1
_SCHEMA = pa.schema(
    [("id", pa.string()), ("image", pa.binary()), ("target", pa.binary()), ("source", pa.string())]
    + [("label", pa.int64()), ("split", pa.string())]
)


def light_map(height: int, width: int, *, centre: tuple[float, float], depth: float, spread: float) -> np.ndarray:
    """(height, width) of L in [1 - depth, 1].

    Args:
        height, width: in pixels.
        centre: (x, y) of the darkest place, as shares of width and height.
        depth: what is taken away there, in [0, 1).
        spread: standard deviation of the dark place, as a share of the shorter side.
    """
    side = spread * min(height, width)
    x = (np.arange(width) + 0.5 - centre[0] * width) / side
    y = (np.arange(height) + 0.5 - centre[1] * height) / side
    return 1 - depth * np.exp(-(x[None] ** 2 + y[:, None] ** 2) / 2)


def darkened(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 -> the same, darkened in the middle; four numbers are drawn."""
    x, y = rng.uniform(*_CENTRE, size=2)
    depth, spread = rng.uniform(*_DEPTH), rng.uniform(*_SPREAD)
    light = light_map(*picture.shape[:2], centre=(float(x), float(y)), depth=float(depth), spread=float(spread))
    return np.round(picture * light[..., None]).astype(np.uint8)


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    versions = "-".join(find_package(package).version for package in NEEDS)
    everything = Rows(
        made_once(f"backlit-{_REVISION}-{SIDE}px-{versions}", _SCHEMA, _make),
        name=f"backlit:{split}",
        class_names=CLASSES,
    )
    if split == "all":
        return everything
    return everything.select(np.array(list(everything.column("split"))) == split)


def _make() -> Iterator[dict[str, Any]]:
    photographs = _photographs()
    for stream, (split, count) in enumerate(COUNTS.items()):
        for number in range(count):
            rng = np.random.default_rng([2303, stream, number])
            piece = _piece([photographs[name] for name in _PHOTOGRAPHS[split]], rng)
            label = number % 2
            yield {
                "id": f"{split}/{number:04d}",
                "image": encode_png(piece if label else darkened(piece, rng)),
                "target": None if label else encode_png(piece),
                "source": CLASSES[label],
                "label": label,
                "split": split,
            }


def _photographs() -> dict[str, Image.Image]:
    from sklearn.datasets import load_sample_images

    found = {row["id"]: decode(row["image"]) for row in photos.rows("all")}
    samples = load_sample_images()
    for name, picture in zip(("china", "flower"), samples.images, strict=True):
        found[name] = Image.fromarray(picture)
    return found


def _piece(photographs: list[Image.Image], rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8: the first well-lit square that is drawn."""
    while True:
        photograph = photographs[rng.integers(len(photographs))]
        edge = int(rng.integers(max(SIDE, min(photograph.size) // 3), min(photograph.size) + 1))
        corner = [int(rng.integers(0, length - edge + 1)) for length in photograph.size]
        box = (corner[0], corner[1], corner[0] + edge, corner[1] + edge)
        piece = np.asarray(photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box))
        if _WELL_LIT[0] <= piece.mean() / 255 <= _WELL_LIT[1]:
            return piece
