"""1,797 grey pictures of handwritten digits, 8 x 8 pixels, with their labels (scikit-learn's copy of the UCI
set).

Splits: by a hash of the row number, about 70 % train, 10 % validation, 20 % test. The writers are not named
in the data, so the same hand may be on both sides of the split. Nothing to download.
"""

from __future__ import annotations

import numpy as np

from counterpoint.data.images import encode_png
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

SPLITS = ("train", "validation", "test")
NEEDS = ()
LICENCE = "CC BY 4.0 (UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998)"


def rows(split: str) -> Rows:
    """Columns `image` (PNG bytes, 8 x 8 grey) and `label` (0 to 9)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    found = [
        {"id": f"{number:04d}", "image": encode_png(picture), "label": int(label)}
        for number, (picture, label) in enumerate(zip(pictures, data.target, strict=True))
        if hashed_split(f"digits/{number}", train=0.7, validation=0.1) == split
    ]
    return Rows.from_list(found, name=f"digits:{split}", class_names=[str(digit) for digit in range(10)])
