"""Two views with a target: what they carry, and which rows have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow, open_rows
from counterpoint.views.image import TwoViews
from counterpoint.views.targets import TargetViews

VIEW = TargetViews(TwoViews(size=32, scale=(0.8, 1.0), flip=0.0))


def test_views_carry_the_target_and_a_fresh_number() -> None:
    row = open_rows("rotated-digits:train-150")[0]
    samples = [VIEW(row, np.random.default_rng(seed)) for seed in (0, 1)]
    assert [float(sample["target"]) for sample in samples] == [row["target"]] * 2
    assert samples[0]["draw"] != samples[1]["draw"]
    assert not torch.equal(samples[0]["first"], samples[0]["second"])


@pytest.mark.parametrize("target", [None, "old", float("nan"), float("inf")])
def test_rows_without_a_usable_target_are_left_out_by_name(target: Any) -> None:
    row = {**open_rows("rotated-digits:train-150")[0], "target": target}
    with pytest.raises(BadRow, match="its target must be"):
        VIEW(row, np.random.default_rng(0))
