"""Two data sets that differ in one thing: pictures of one handwritten digit, and of such a digit with a second beside.

Every picture is 16 x 16 pixels, black, composed of 8 x 8 scans of `digits`: one in the left half (what both sets have
in common) and, in a target, one in the right half (what is salient in it). Neither says anything about the other.
Columns:
    image: PNG, grey.
    label: class of the left digit, 0 to 9.
    salient: class of the right digit, 0 to 9; None in the background.
    source: "background" or "target".

Splits train (1,500 of each kind), validation (300) and test (750) hold both kinds in turn; `train-background`,
`train-target`, `validation-background` and so on hold one. They are composed of different scans: those of the split of
`digits` of that name. A scan is in several pictures; the writers are not named in the data. Nothing to download.
"""

from __future__ import annotations

import numpy as np

from counterpoint.data.builtin import digits
from counterpoint.data.images import decode, encode_png
from counterpoint.data.rows import Rows

KINDS = ("background", "target")
COUNTS = {"train": 1500, "validation": 300, "test": 750}
SPLITS = (*COUNTS, *(f"{split}-{kind}" for split in COUNTS for kind in KINDS))
NEEDS = ()
LICENCE = digits.LICENCE

SIDE = 16  # pixels


def composed(left: np.ndarray, right: np.ndarray | None) -> np.ndarray:
    """(8, 8) uint8 scans -> (16, 16): one in the middle of the left half, the other, if any, in that of the right."""
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for scan, place in ((left, 0), (right, SIDE // 2)):
        if scan is not None:
            canvas[SIDE // 4 : 3 * SIDE // 4, place : place + SIDE // 2] = scan
    return canvas


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    part, _, kind = split.partition("-")
    scans = list(digits.rows(part))
    pixels = [np.asarray(decode(scan["image"]))[..., 0] for scan in scans]  # (8, 8) each
    found = []
    for number in range(2 * COUNTS[part]):
        source = KINDS[number % 2]
        rng = np.random.default_rng([2402, list(COUNTS).index(part), number])
        left, right = (int(place) for place in rng.integers(len(scans), size=2))
        salient = right if source == "target" else None
        if kind in ("", source):
            picture = composed(pixels[left], None if salient is None else pixels[salient])
            found.append(
                {
                    "id": f"{source}/{number // 2:04d}",
                    "image": encode_png(picture),
                    "label": scans[left]["label"],
                    "salient": None if salient is None else scans[salient]["label"],
                    "source": source,
                }
            )
    return Rows.from_list(found, name=f"digit-pairs:{split}", class_names=[str(digit) for digit in range(10)])
