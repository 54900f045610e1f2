"""The 1,797 pictures of `digits`, split by class: what is learnt from never shows what is asked for.

Splits:
    train: every picture of 0 to 4, with its label, which few-shot learning without labels does not look at.
    test: every picture of 5 to 9, labels counted from 0 again: the classes of the few-shot episodes.
Nothing is drawn; the pictures of `digits:train`, `:validation` and `:test` come in this order.
"""

from __future__ import annotations

from counterpoint.data.builtin import digits
from counterpoint.data.rows import Rows

SPLITS = ("train", "test")
NEEDS = ()
LICENCE = digits.LICENCE


def rows(split: str) -> Rows:
    """Columns `image` (PNG bytes, 8 x 8 grey) and `label` (0 to 4)."""
    first = 0 if split == "train" else 5
    found = [
        {**row, "label": row["label"] - first}
        for part in digits.SPLITS
        for row in digits.rows(part)
        if first <= row["label"] < first + 5
    ]
    names = [str(digit) for digit in range(first, first + 5)]
    return Rows.from_list(found, name=f"novel-digits:{split}", class_names=names)
