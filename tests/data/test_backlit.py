"""Darkened photographs: the function is the one that is written down, pairs fit, splits share no photograph."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import backlit
from counterpoint.data.images import decode
from counterpoint.data.packages import find_package


@pytest.fixture(autouse=True)
def _packages() -> None:
    try:
        for package in backlit.NEEDS:
            find_package(package)
    except DataError as error:
        pytest.skip(str(error))


def test_light_map_against_the_equation() -> None:
    light = backlit.light_map(8, 20, centre=(0.3, 0.6), depth=0.8, spread=0.25)
    for y, x in ((0, 0), (4, 5), (7, 19)):
        dx, dy = (x + 0.5 - 6.0) / 2.0, (y + 0.5 - 4.8) / 2.0  # in standard deviations: 0.25 of 8 pixels
        assert light[y, x] == pytest.approx(1 - 0.8 * np.exp(-(dx**2 + dy**2) / 2))


def test_dark_pieces_are_their_targets_times_a_smooth_map() -> None:
    for row in open_rows("backlit:validation").select(range(0, 40, 2)):
        dark, bright = (np.asarray(decode(row[name])).astype(float) for name in ("image", "target"))
        assert (dark <= bright).all()
        solid = bright > 100
        ratio = np.where(solid, dark / np.maximum(bright, 1), 1.0)
        assert 0.15 - 0.01 <= ratio[solid].min() < 0.75
        assert np.ptp(ratio, axis=2)[solid.all(axis=2)].max(initial=0) < 0.012, "all channels alike, up to rounding"


def test_sources_and_labels() -> None:
    rows = open_rows("backlit:test")
    assert rows.class_names == ["backlit", "welllit"]
    assert rows.column("source") == [rows.class_names[label] for label in rows.column("label")]
    assert [target is None for target in rows.column("target")] == [
        source == "welllit" for source in rows.column("source")
    ]
    for row in rows.select(range(1, 60, 2)):
        assert 0.35 <= np.asarray(decode(row["image"])).mean() / 255 <= 0.75


def test_splits_share_no_photograph() -> None:
    assert {split: len(open_rows(f"backlit:{split}")) for split in backlit.COUNTS} == backlit.COUNTS
    names = [name for group in backlit._PHOTOGRAPHS.values() for name in group]
    assert len(names) == len(set(names)) == 17
