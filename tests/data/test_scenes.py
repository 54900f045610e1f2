"""The composed scenes: what lies where, what the captions say, and that the splits share no content."""

from __future__ import annotations

import numpy as np

from counterpoint.data import open_rows
from counterpoint.data.builtin.scenes import COLOURS, GRID, NOUNS, TILE
from counterpoint.data.images import decode


def _words(caption: str, *, in_order: bool = True) -> list[str]:
    words = caption.replace(",", "").split()
    return words if in_order else sorted(words)


def test_captions_name_what_lies_where() -> None:
    for row in open_rows("scenes:validation")[:30]:
        picture = np.asarray(decode(row["image"]))
        assert picture.shape == (GRID * TILE, GRID * TILE, 3)
        said = dict(part.split(" on ") for part in row["text"].replace(" and ", ", ").split(", "))
        assert [noun.split()[1] for noun in said] == row["words"]
        for colour, box in zip(said.values(), row["boxes"], strict=True):
            left, top, right, bottom = (round(edge * GRID * TILE) for edge in box)
            tile = picture[top:bottom, left:right].reshape(-1, 3)
            assert (right - left, bottom - top) == (TILE, TILE)
            assert (tile == COLOURS[colour]).all(axis=1).mean() > 0.2
        assert row["group"] == ", ".join(sorted(f"{noun.split()[1]} on {colour}" for noun, colour in said.items()))


def test_distractors_swap_colours_only() -> None:
    for row in open_rows("scenes:test")[:30]:
        for other in row["distractors"]:
            assert other != row["text"]
            assert _words(other, in_order=False) == _words(row["text"], in_order=False)
            assert [word for word in _words(other) if word in NOUNS] == row["words"]


def test_splits_share_no_content() -> None:
    contents = {}
    for split in ("train", "validation", "test"):
        rows = open_rows(f"scenes:{split}")
        contents[split] = {frozenset(group.replace(" on ", ", ").split(", ")) for group in rows.column("group")}
        assert len(rows) > 200
    assert not contents["train"] & contents["test"] and not contents["train"] & contents["validation"]
    pairs = {part for group in open_rows("scenes:train").column("group") for part in group.split(", ")}
    assert len(pairs) == len(NOUNS) * len(COLOURS), "every noun is seen on every colour"
