"""Real pictures composed into scenes whose captions say what lies on which colour: 5,000 scenes of emoji.

Two emoji lie on coloured tiles of a 2 x 2 grid (32 x 32 pixels, 16 a tile; the other two are white), each a little off
the middle of its tile. Columns:
    image, text: "a dog on red and a fish on blue", the objects in random order.
    distractors: the same caption with the colours swapped, a list of one.
    words, boxes: the nouns, and for each its tile as (left, top, right, bottom) in [0, 1].
    group: what the caption means, whatever its order. Put `group="group"` into the loader so that no scene is the
        negative of its own caption.

Splits train, validation and test, about 80 / 10 / 10 %, by a hash of the set of nouns and colours: a caption of the
test split, or one of its distractors, is never seen in training. Every noun is seen on every colour.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from counterpoint.data.builtin import emoji
from counterpoint.data.images import encode_png
from counterpoint.data.package_rows import made_once
from counterpoint.data.packages import find_package
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

SPLITS = ("train", "validation", "test", "all")
NEEDS = emoji.NEEDS
LICENCE = emoji.LICENCE

NOUNS = ("bicycle", "dog", "fish", "house", "umbrella")
COLOURS = {"red": (226, 74, 60), "yellow": (245, 205, 60), "green": (90, 180, 95), "blue": (70, 120, 215)}
GRID, TILE, PICTURE = 2, 16, 13  # tiles a side; pixels a tile and an emoji
COUNT = 5000
OBJECTS = 2

_SCHEMA = pa.schema(
    [("id", pa.string()), ("image", pa.binary()), ("text", pa.string())]
    + [(name, pa.list_(pa.string())) for name in ("distractors", "words")]
    + [("boxes", pa.list_(pa.list_(pa.float32()))), ("group", pa.string()), ("split", pa.string())]
)


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    versions = "-".join(find_package(package).version for package in NEEDS)
    everything = Rows(
        made_once(f"scenes-{OBJECTS}-{GRID}x{GRID}-{COUNT}-{versions}", _SCHEMA, _compose), name=f"scenes:{split}"
    )
    if split == "all":
        return everything
    return everything.select(np.array(list(everything.column("split"))) == split)


def _compose() -> Iterator[dict[str, Any]]:
    pictures = _pictures()
    for number in range(COUNT):
        rng = np.random.default_rng([20211, number])
        nouns = [NOUNS[i] for i in rng.permutation(len(NOUNS))[:OBJECTS]]
        colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:OBJECTS]]
        cells = rng.permutation(GRID * GRID)[:OBJECTS]
        shifts = rng.integers(0, TILE - PICTURE + 1, (OBJECTS, 2))
        scene = Image.new("RGB", (GRID * TILE, GRID * TILE), "white")
        boxes = []
        for noun, colour, cell, shift in zip(nouns, colours, cells, shifts, strict=True):
            left, top = int(cell % GRID) * TILE, int(cell // GRID) * TILE
            scene.paste(COLOURS[colour], (left, top, left + TILE, top + TILE))
            place = (left + int(shift[0]), top + int(shift[1]))
            scene.paste(pictures[noun], place, pictures[noun])
            boxes.append([edge / scene.width for edge in (left, top, left + TILE, top + TILE)])
        contents = ",".join(sorted(nouns)) + "/" + ",".join(sorted(colours))
        yield {
            "id": f"{number:04d}",
            "image": encode_png(np.asarray(scene)),
            "text": _caption(nouns, colours),
            "distractors": [
                _caption(nouns, dealt) for dealt in itertools.permutations(colours) if list(dealt) != colours
            ],
            "words": nouns,
            "boxes": boxes,
            "group": ", ".join(sorted(f"{noun} on {colour}" for noun, colour in zip(nouns, colours, strict=True))),
            "split": hashed_split(f"scenes/{contents}", train=0.8, validation=0.1),
        }


def _caption(nouns: list[str], colours: Any) -> str:
    parts = [
        f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} on {colour}" for noun, colour in zip(nouns, colours, strict=True)
    ]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _pictures() -> dict[str, Image.Image]:
    """Noun -> emoji with its transparency, PICTURE pixels a side."""
    found = {}
    for row in emoji.rows("all"):
        if row["text"] in NOUNS:
            picture = Image.open(io.BytesIO(row["image"])).convert("RGBA")
            found[row["text"]] = picture.resize((PICTURE, PICTURE), Image.Resampling.LANCZOS)
    return found
