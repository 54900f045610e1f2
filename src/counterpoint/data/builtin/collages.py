"""Real pictures composed into scenes with exact masks: 2,800 photographs with emoji pasted onto them.

One to three emoji (a bicycle, bus, camera, dog, fish, guitar, house or umbrella; 24 to 40 pixels, turned by up to 20
degrees, every second one mirrored) lie on a 64 x 64 piece of a photograph; later ones cover earlier ones. Columns:
    image: PNG.
    mask: PNG of the same size, one class number a pixel: 0 is background, 1 to 8 the nouns in alphabetical order.
    text: the nouns that can be seen, "a dog and a house".

Splits train (2,000), validation (300) and test (500), composed from different photographs: no background is shared.
train-50 and train-100 are the first of train, for learning from few masks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from counterpoint.data.builtin import emoji, photos
from counterpoint.data.images import decode, encode_png
from counterpoint.data.package_rows import made_once
from counterpoint.data.packages import find_package
from counterpoint.data.rows import Rows

SPLITS = ("train", "validation", "test", "train-50", "train-100", "all")
NEEDS = (*emoji.NEEDS, *photos.NEEDS)
LICENCE = f"{emoji.LICENCE}; {photos.LICENCE}"

CLASSES = ("background", "bicycle", "bus", "camera", "dog", "fish", "guitar", "house", "umbrella")
SIDE = 64  # pixels
COUNTS = {"train": 2000, "validation": 300, "test": 500}
_OBJECTS, _SIZES, _TURN = (1, 3), (24, 40), 20.0  # a picture; pixels; degrees
_COVER = 128
"""Opacity from which on a pixel belongs to the emoji."""
_VISIBLE = 40
"""Pixels of an emoji that must be seen for it to be named."""
_BACKGROUNDS = {
    "validation": ("coffee", "gravel", "moon"),
    "test": ("chelsea", "clock-motion", "grass", "ihc", "retina"),
}
_REVISION = 1
_SCHEMA = pa.schema(
    [("id", pa.string()), ("image", pa.binary()), ("mask", pa.binary()), ("text", pa.string()), ("split", pa.string())]
)


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    versions = "-".join(find_package(package).version for package in NEEDS)
    everything = Rows(
        made_once(f"collages-{_REVISION}-{SIDE}px-{versions}", _SCHEMA, _compose),
        name=f"collages:{split}",
        class_names=CLASSES,
    )
    if split == "all":
        return everything
    part, _, most = split.partition("-")
    found = everything.select(np.array(list(everything.column("split"))) == part)
    return found[: int(most)] if most else found


def _compose() -> Iterator[dict[str, Any]]:
    stamps = _stamps()
    backgrounds = {row["id"]: decode(row["image"]) for row in photos.rows("all")}
    held_out = {name for names in _BACKGROUNDS.values() for name in names}
    for number, (split, count) in enumerate(COUNTS.items()):
        names = _BACKGROUNDS.get(split, tuple(sorted(set(backgrounds) - held_out)))
        for index in range(count):
            rng = np.random.default_rng([2011, number, index])
            scene = _piece(backgrounds[names[rng.integers(len(names))]], rng)
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            for _ in range(rng.integers(_OBJECTS[0], _OBJECTS[1] + 1)):
                label = int(rng.integers(1, len(CLASSES)))
                _paste(scene, mask, stamps[label], label, rng)
            seen = [CLASSES[n] for n in range(1, len(CLASSES)) if (mask == n).sum() >= _VISIBLE]
            yield {
                "id": f"{split}/{index:04d}",
                "image": encode_png(np.asarray(scene)),
                "mask": encode_png(mask),
                "text": " and ".join(f"a {name}" if name != "umbrella" else "an umbrella" for name in seen)
                or "a photograph",
                "split": split,
            }


def _piece(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random square of a photograph, a fifth to all of its shorter side, as SIDE x SIDE pixels."""
    shorter = min(photograph.size)
    side = int(rng.integers(max(SIDE, shorter // 5), shorter + 1))
    left, top = (int(rng.integers(0, edge - side + 1)) for edge in photograph.size)
    box = (left, top, left + side, top + side)
    return photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)


def _paste(scene: Image.Image, mask: np.ndarray, stamp: Image.Image, label: int, rng: np.random.Generator) -> None:
    """Put an emoji onto a scene and its number into the mask, wholly inside the picture."""
    side = int(rng.integers(_SIZES[0], _SIZES[1] + 1))
    turned = stamp.resize((side, side), Image.Resampling.LANCZOS)
    turned = turned.rotate(float(rng.uniform(-_TURN, _TURN)), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top = (int(rng.integers(0, SIDE - side + 1)) for _ in range(2))
    scene.paste(turned, (left, top), turned)
    covered = np.asarray(turned)[:, :, 3] >= _COVER
    mask[top : top + side, left : left + side][covered] = label


def _stamps() -> dict[int, Image.Image]:
    """Class number -> emoji with its transparency."""
    found = {}
    for row in emoji.rows("all"):
        if row["text"] in CLASSES[1:]:
            found[CLASSES.index(row["text"])] = Image.open(io.BytesIO(row["image"])).convert("RGBA")
    return found
