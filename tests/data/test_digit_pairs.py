"""Digit pairs: each half shows the digit its label names, and no scan is on two sides."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from counterpoint.data import open_rows, open_sources
from counterpoint.data.images import decode

PARTS = {"train": 1500, "validation": 300, "test": 750}
SCANS = {np.round(scan * (255 / 16)).astype(np.uint8).tobytes(): n for n, scan in enumerate(load_digits().images)}
CLASSES = load_digits().target


def _halves(row: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    picture = np.asarray(decode(row["image"]))[..., 0]
    assert picture.shape == (16, 16) and not picture[:4].any() and not picture[12:].any()
    return picture[4:12, :8].copy(), picture[4:12, 8:].copy()


@pytest.mark.parametrize("split", PARTS)
def test_halves_show_what_the_labels_say(split: str) -> None:
    rows = open_rows(f"digit-pairs:{split}")
    kinds = rows.column("source")
    assert kinds.count("background") == kinds.count("target") == PARTS[split]
    for row in rows.select(range(0, len(rows), 7)):
        left, right = _halves(row)
        assert CLASSES[SCANS[left.tobytes()]] == row["label"]
        if row["source"] == "target":
            assert CLASSES[SCANS[right.tobytes()]] == row["salient"]
        else:
            assert row["salient"] is None and not right.any()


def test_no_scan_is_on_two_sides() -> None:
    seen = {}
    for split in PARTS:
        halves = [half for row in open_rows(f"digit-pairs:{split}") for half in _halves(row) if half.any()]
        seen[split] = {SCANS[half.tobytes()] for half in halves}
    assert not (seen["train"] & seen["validation"] or seen["train"] & seen["test"] or seen["validation"] & seen["test"])


def test_the_two_digits_of_a_target_say_nothing_about_each_other() -> None:
    rows = open_rows("digit-pairs:train-target")
    table = np.zeros((10, 10))
    np.add.at(table, (np.array(rows.column("label")), np.array(rows.column("salient"))), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    assert statistic < 113.5, "chi squared with 81 degrees of freedom, one in a hundred"


def test_one_kind_alone_is_the_same_pictures() -> None:
    """So that the two can come in as two sources."""
    whole = {row["id"]: row for row in open_rows("digit-pairs:validation")}
    both = open_sources(["background=digit-pairs:validation-background", "target=digit-pairs:validation-target"])
    assert len(both) == len(whole) == 600
    for row in both:
        kind, _, identity = row["id"].partition("/")
        assert row == {**whole[identity], "id": row["id"], "source": kind}
        assert identity.startswith(kind)


def test_the_set_is_the_same_everywhere() -> None:
    """Recorded once: other draws would change what published scores mean."""
    rows = open_rows("digit-pairs:train").select(range(4))
    assert [(row["id"], row["label"], row["salient"]) for row in rows] == [
        ("background/0000", 6, None),
        ("target/0000", 1, 4),
        ("background/0001", 9, None),
        ("target/0001", 5, 0),
    ]
