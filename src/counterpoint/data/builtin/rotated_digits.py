"""1,797 handwritten digits (scikit-learn's copy of the UCI set), each turned by a known angle: a regression set.

Every 8 x 8 picture is enlarged to 16 x 16 (bicubic) and turned counter-clockwise about its centre (bilinear, black
outside). `target` is the angle, a whole number of degrees from 0 to 89.

Splits: in the order of the SHA-256 of "rotated-digits/NUMBER", the first 600 digits are train, the last 797 test, the
400 between validation; `train-150` is the first 150 of train, for the setting with few labels. The angle is
int(90 x) with x in [0, 1) from the SHA-256 of "rotated-digits/angle/NUMBER". So a digit has one angle and is in one
split, on every machine; the writers are not named in the data. Nothing to download.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from counterpoint.data.images import encode_png
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hash_order, hash_share

SPLITS = ("train", "train-150", "validation", "test")
NEEDS = ()
LICENCE = "CC BY 4.0 (UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998)"

_PLACES = {"train": (0, 600), "train-150": (0, 150), "validation": (600, 1000), "test": (1000, 1797)}
_SIDE, _ANGLES = 16, 90


def turned(digit: np.ndarray, angle: int) -> np.ndarray:
    """(8, 8) with values from 0 to 16 -> (16, 16) uint8, turned counter-clockwise by `angle` degrees."""
    picture = Image.fromarray(np.round(digit * (255 / 16)).astype(np.uint8))
    picture = picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    return np.asarray(picture.rotate(angle, Image.Resampling.BILINEAR))


def rows(split: str) -> Rows:
    """Columns `image` (PNG bytes, 16 x 16 grey) and `target` (degrees)."""
    from sklearn.datasets import load_digits

    digits = load_digits().images  # (1797, 8, 8)
    keys = {f"{number:04d}": number for number in range(len(digits))}
    first, last = _PLACES[split]
    found = []
    for key in hash_order(keys, salt="rotated-digits")[first:last]:
        angle = int(_ANGLES * hash_share(f"rotated-digits/angle/{key}"))
        found.append({"id": key, "image": encode_png(turned(digits[keys[key]], angle)), "target": float(angle)})
    return Rows.from_list(found, name=f"rotated-digits:{split}")
