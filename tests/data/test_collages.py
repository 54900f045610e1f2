"""The composed collages: masks say which pixels were pasted, and splits share no photograph."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import collages
from counterpoint.data.images import decode
from counterpoint.data.packages import find_package


@pytest.fixture(autouse=True)
def _packages() -> None:
    try:
        for package in collages.NEEDS:
            find_package(package)
    except DataError as error:
        pytest.skip(str(error))


def test_masks_name_what_is_pasted() -> None:
    seen = set()
    for row in open_rows("collages:validation")[:60]:
        mask = np.asarray(Image.open(io.BytesIO(row["mask"])))
        assert mask.shape == (collages.SIDE, collages.SIDE) == decode(row["image"]).size
        named = {word.split()[1] for word in row["text"].split(" and ")} - {"photograph"}
        large = {collages.CLASSES[n] for n in np.unique(mask) if n and (mask == n).sum() >= 40}
        assert named == large
        seen |= large
    assert seen == set(collages.CLASSES[1:])


def test_a_pasted_pixel_differs_from_the_photograph() -> None:
    """A stamp alone on black: its mask covers what is not black, and nothing else."""
    scene, mask = Image.new("RGB", (64, 64)), np.zeros((64, 64), dtype=np.uint8)
    collages._paste(scene, mask, collages._stamps()[5], 5, np.random.default_rng(0))
    painted = np.asarray(scene).max(axis=2) > 128
    assert (mask == 5).sum() > 100
    assert not (painted & (mask != 5)).any()


def test_sizes_and_backgrounds_of_the_splits() -> None:
    assert {split: len(open_rows(f"collages:{split}")) for split in collages.COUNTS} == collages.COUNTS
    names = [set(group) for group in collages._BACKGROUNDS.values()]
    assert not names[0] & names[1]
