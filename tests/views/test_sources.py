"""Views of two data sets: which one a row is from, what is known of target rows, and data that are not two sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow, Rows, open_rows
from counterpoint.views.image import TwoViews
from counterpoint.views.sources import SourceViews

PICTURES = TwoViews(size=16, scale=(0.7, 1.0), flip=0.0, grey=0.0, blur=0.0)


def test_pictures_are_those_of_the_two_views_and_the_source_is_told() -> None:
    view = SourceViews(PICTURES, "target")
    for row in open_rows("digit-pairs:test").select(range(4)):
        found, alone = view(row, np.random.default_rng(3)), PICTURES(row, np.random.default_rng(3))
        assert torch.equal(found["first"], alone["first"]) and torch.equal(found["second"], alone["second"])
        assert bool(found["target"]) == (row["source"] == "target")
        assert found["attributes"].shape == (0,)


@pytest.mark.parametrize("size", [None, "large", float("nan")])
def test_a_target_row_needs_its_attributes_and_a_background_row_does_not(size: Any) -> None:
    view = SourceViews(PICTURES, "target", ("size",))
    picture = open_rows("digit-pairs:test")[0]["image"]
    rows = Rows.from_list([{"image": picture, "source": s, "size": size} for s in ("background", "target")])
    assert view(rows[0], np.random.default_rng(0))["attributes"].tolist() == [0.0]
    with pytest.raises(BadRow, match="number in 'size'"):
        view(rows[1], np.random.default_rng(0))
    without = {name: value for name, value in rows[1].items() if name != "size"}
    with pytest.raises(BadRow, match="number in 'size', got None"):
        view(without, np.random.default_rng(0))
    known = view({**without, "size": "2.5"}, np.random.default_rng(0))
    assert known["attributes"].tolist() == [2.5] and bool(known["target"])


def test_attributes_stand_in_the_order_that_was_named() -> None:
    row = {**open_rows("digit-pairs:test")[1], "size": 3, "turn": -0.5}
    for names, wanted in ((("size", "turn"), [3.0, -0.5]), (("turn", "size"), [-0.5, 3.0])):
        found = SourceViews(PICTURES, "target", names)(row, np.random.default_rng(0))
        assert found["attributes"].tolist() == wanted


def test_rows_of_one_kind_are_refused() -> None:
    rows = open_rows("digit-pairs:test")
    view = SourceViews(PICTURES, "target")
    assert view.names(rows.select(range(4))) == ["background", "target"]
    for places, found in (([1, 3], "target"), ([0, 2], "background")):
        with pytest.raises(ValueError, match=f"found {found}: name two data sets, background=PATH target=PATH"):
            view.names(rows.select(places))
    with pytest.raises(ValueError, match="source must be 'patients' in some rows"):
        SourceViews(PICTURES, "patients").names(rows)
