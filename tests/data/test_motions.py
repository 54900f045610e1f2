"""Clips that only the order of their frames tells apart."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import motions
from counterpoint.data.packages import find_package


@pytest.fixture(autouse=True)
def _packages() -> None:
    try:
        for package in motions.NEEDS:
            find_package(package)
    except DataError as error:
        pytest.skip(str(error))


def test_a_row() -> None:
    rows = open_rows("motions")
    row = rows[40]
    assert row["video"].shape == (21, 64, 64, 3) and row["video"].dtype == np.uint8
    assert row["text"] == rows.class_names[row["label"]] == row["group"]  # type: ignore[index]
    assert row["text"].endswith(f"{row['picture']} {row['motion']}")
    assert motions.sentence("umbrella", "growing") == "an umbrella growing"


def test_rows_are_made_alike_every_time_and_elsewhere() -> None:
    rows = open_rows("motions:validation")
    again = pickle.loads(pickle.dumps(rows))
    assert len(pickle.dumps(rows)) < 200_000
    assert np.array_equal(rows[7]["video"], again[7]["video"])
    assert not np.array_equal(rows[7]["video"], rows[8]["video"])
    assert rows.fingerprint == again.fingerprint != open_rows("motions:test").fingerprint


def test_names_are_read_without_composing_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(clip: object) -> None:
        raise AssertionError("a clip was composed")

    monkeypatch.setattr(motions, "compose", refuse)
    rows = open_rows("motions:all")
    assert len(rows.column("label")) == len(rows.column("id")) == 5040
    assert set(rows.column("motion")) == set(motions.MOTIONS)


def test_combinations_are_held_out() -> None:
    train, unseen, novel = (set(motions.combinations(split)) for split in ("train", "zero-shot", "novel"))
    assert (len(train), len(unseen), len(novel)) == (24, 12, 36)
    assert not (train & unseen or train & novel or unseen & novel)
    assert {picture for picture, _ in unseen} == {picture for picture, _ in train} == set(motions.PICTURES)
    for picture in motions.PICTURES:  # both of a pair, so that order is needed; every motion is seen on other pictures
        held_out = {motion for name, motion in unseen if name == picture}
        assert any(held_out == set(pair) for pair in motions.PARTNERS)
    assert {motion for _, motion in train} == {motion for _, motion in unseen} == set(motions.MOTIONS)


@pytest.mark.parametrize("split", ["train", "zero-shot"])
def test_classes_are_equally_frequent(split: str) -> None:
    counts = np.bincount(open_rows(f"motions:{split}").column("label"))
    assert len(set(counts.tolist())) == 1


def _path(motion: str, number: int) -> np.ndarray:
    """(FRAMES, 3) left, top and side of a picture."""
    pair = next(pair for pair in motions.PARTNERS if motion in pair)
    boxes = motions._boxes(motions.PARTNERS.index(pair), np.random.default_rng(number))
    return boxes if motion == pair[0] else boxes[::-1]


@pytest.mark.parametrize("number", range(10))
def test_motions_do_what_they_say(number: int) -> None:
    for motion, column, sign in (
        ("moving left", 0, -1),
        ("moving right", 0, 1),
        ("moving up", 1, -1),
        ("moving down", 1, 1),
        ("growing", 2, 1),
        ("shrinking", 2, -1),
    ):
        path = _path(motion, number)
        steps = np.diff(path, axis=0) * sign
        assert (steps[:, column] > 0).all()
        if column < 2:
            assert np.allclose(steps[:, 1 - column], 0) and np.allclose(steps[:, 2], 0)
        assert path[:, :2].min() >= -1e-9 and (path[:, :2] + path[:, 2:]).max() <= motions.SIDE + 1e-9


def test_partners_are_each_other_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same draws and a ground that stands still, to the last pixel."""
    still = np.zeros((motions.FRAMES, motions.SIDE, motions.SIDE, 3), dtype=np.uint8)
    monkeypatch.setattr(motions, "_drifting", lambda names, rng: still.copy())
    for first, second in motions.PARTNERS:
        one, two = (motions.compose(motions._Clip("train", 3, "dog", motion)) for motion in (first, second))
        assert one.any() and np.array_equal(one, two[::-1]) and not np.array_equal(one, two)


@pytest.mark.parametrize("parts", range(1, 22))
def test_middle_frames_say_nothing_of_the_direction(parts: int) -> None:
    """A clip and its mirror in time show the same frames in the middle of equal parts."""
    from counterpoint.views.clip_sampling import evenly_spaced

    numbers = evenly_spaced(motions.FRAMES, parts)
    assert sorted(numbers.tolist()) == sorted((motions.FRAMES - 1 - numbers).tolist())


def test_photographs_of_splits_differ() -> None:
    grounds = [set(names) for names in motions._BACKGROUNDS.values()]
    assert sum(len(names) for names in grounds) == len(set.union(*grounds))
    assert set.union(*grounds) <= set(motions._photographs())


def test_every_picture_is_drawn() -> None:
    stamps = motions._stamps()
    assert set(stamps) == {*motions.PICTURES, *motions.NOVEL}
    assert all(stamp.getchannel("A").getextrema() == (0, 255) for stamp in stamps.values())
