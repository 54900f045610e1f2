"""Films of moving emoji: what moves, where to, and that only the order of the frames tells which way."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import actions
from counterpoint.data.packages import find_package


@pytest.fixture(autouse=True)
def _need() -> None:
    try:
        for package in actions.NEEDS:
            find_package(package)
    except DataError as error:
        pytest.skip(str(error))


def _paths(motion: str, count: int = 40) -> np.ndarray:
    """(count, FRAMES, 2) left and top of films of a motion."""
    return np.stack([actions._path(motion, 20, np.random.default_rng(seed)) for seed in range(count)])


def test_rows() -> None:
    sizes = {split: len(open_rows(f"actions:{split}")) for split in actions.SPLITS}
    assert sizes == {"train": 3000, "validation": 600, "test": 900, "all": 4500}
    rows = open_rows("actions:test")
    assert np.bincount(rows.column("label")).tolist() == [150] * 6
    assert rows.class_names == list(actions.MOTIONS)
    row = rows[7]
    assert row["video"].shape == (24, 40, 40, 3) and row["video"].dtype == np.uint8
    assert row["label"] == rows.column("label")[7] and row["picture"] == list(rows.column("picture"))[7]
    assert np.array_equal(row["video"], open_rows("actions:all")[3607]["video"]), "composed alike each time"


def test_nothing_that_is_tested_was_seen_in_training() -> None:
    pictures = {split: set(open_rows(f"actions:{split}").column("picture")) for split in actions.COUNTS}
    assert len(pictures["train"]) == 6 and len(pictures["validation"]) > 50 and len(pictures["test"]) > 150
    assert not pictures["train"] & (pictures["validation"] | pictures["test"])
    assert not pictures["validation"] & pictures["test"]
    backgrounds = [set(names) for names in actions._BACKGROUNDS.values()]
    assert sum(map(len, backgrounds)) == len(set.union(*backgrounds))


def test_things_go_where_their_label_says() -> None:
    for motion, axis, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        steps = sign * np.diff(_paths(motion), axis=1)  # (count, FRAMES - 1, 2)
        assert (steps[..., axis] >= 0).all() and (steps[..., 1 - axis] == 0).all()
        assert (steps[..., axis].sum(axis=1) >= 10).all()
    for motion, sign in (("anticlockwise", 1), ("clockwise", -1)):
        paths = _paths(motion).astype(float)
        middle = paths - (paths.max(axis=1, keepdims=True) + paths.min(axis=1, keepdims=True)) / 2
        x, y = middle[..., 0], -middle[..., 1]  # y points up
        turned = np.unwrap(np.arctan2(y, x), axis=1)
        assert (sign * (turned[:, -1] - turned[:, 0]) > 1.5 * np.pi).mean() > 0.9


@pytest.mark.parametrize("pair", [("left", "right"), ("up", "down"), ("clockwise", "anticlockwise")])
def test_partners_visit_the_same_places_in_the_other_order(pair: tuple[str, str]) -> None:
    first, second = (_paths(motion) for motion in pair)
    assert np.array_equal(first, second[:, ::-1])


def test_a_film_shows_its_emoji_on_its_path() -> None:
    """Behind the thing there is only what is out of focus: edges are where it is."""
    rows = open_rows("actions:validation")
    found = 0
    for number in range(30):
        row = rows[number]
        if actions.MOTIONS[row["label"]] not in ("left", "right"):
            continue
        grey = row["video"].astype(float).mean(axis=3)
        edges = np.abs(np.diff(grey, axis=2)).max(axis=1)  # (FRAMES, SIDE - 1)
        centres = (edges**2 * np.arange(39)).sum(axis=1) / (edges**2).sum(axis=1)
        moved = centres[-4:].mean() - centres[:4].mean()
        found += (moved > 0) == (actions.MOTIONS[row["label"]] == "right")
    assert found >= 9  # of 10
