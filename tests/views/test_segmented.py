"""Pictures and masks are cut alike; numbers that are no class are bad rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.data import BadRow
from counterpoint.data.images import IGNORED, encode_png
from counterpoint.views.segmented import SegmentedView, picture_with_mask

PLAIN: dict[str, Any] = {
    "flip": 0.0,
    "jitter_probability": 0.0,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}


def _row(height: int = 40, width: int = 56, cell: int = 8) -> dict[str, Any]:
    """Squares whose shade says their class: class k has the value 20 k."""
    rows, columns = -(-height // cell), -(-width // cell)
    classes = np.random.default_rng(0).integers(0, 12, (rows, columns)).astype(np.uint8)
    mask = classes.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return {"id": "squares", "image": Image.fromarray(20 * mask).convert("RGB"), "mask": encode_png(mask)}


def _square(seed: int, row: dict[str, Any] | None = None, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    sample = SegmentedView(**{"size": 32, **PLAIN, **settings})(row or _row(), np.random.default_rng(seed))
    return sample["image"], sample["mask"]


@pytest.mark.parametrize("resize", [(0.5, 0.5), (1.0, 1.0), (1.25, 2.0), (0.3, 3.0)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_every_pixel_keeps_its_class(resize: tuple[float, float], flip: float) -> None:
    """The shade is that of the class wherever a pixel does not lie at the edge of a square."""
    compared = 0
    for seed in range(6):
        image, mask = _square(seed, _row(96, 120, 48), resize=resize, flip=flip)
        assert image.shape == (3, 32, 32) and mask.shape == (32, 32) and mask.dtype == torch.int64
        near = torch.nn.functional.unfold(mask[None, None].double(), 5, padding=2).reshape(25, 32, 32)
        inner = (near == near[12]).all(dim=0) & (mask != IGNORED)
        compared += int(inner.sum())
        assert not bool(inner.any()) or float((image[0] * 255 - 20 * mask)[inner].abs().max()) < 1.5
    assert compared > 100


def test_flipping_mirrors_both() -> None:
    for left, right in zip(
        _square(3, flip=0.0, resize=(1.2, 2.0)), _square(3, flip=1.0, resize=(1.2, 2.0)), strict=True
    ):
        assert torch.equal(left.flip(-1), right)


def test_what_is_beyond_the_picture_is_ignored() -> None:
    image, mask = _square(0, resize=(0.5, 0.5))  # the shorter side becomes 16, the longer 22
    assert bool((mask[:16, :22] != IGNORED).all()) and bool((mask[16:] == IGNORED).all())
    assert bool((mask[:, 22:] == IGNORED).all()) and not bool(image[:, 16:].any())
    grey = _square(0, resize=(0.5, 0.5), mean=(0.5, 0.5, 0.5))[0]
    assert not bool(grey[:, 16:].any())  # the mean colour, not black


def test_squares_reach_every_part_of_the_picture() -> None:
    """A picture whose pixels say where they are: both corners are seen."""
    across = np.tile(np.arange(100, dtype=np.uint8), (50, 1))
    row = {"image": Image.fromarray(across).convert("RGB"), "mask": across}
    masks = [_square(seed, row, resize=(50 / 32, 50 / 32))[1] for seed in range(600)]  # one pixel a pixel
    assert {int(mask[0, 0]) for mask in masks} == set(range(100 - 32 + 1))
    assert all(torch.equal(mask[0], mask[0, 0] + torch.arange(32)) for mask in masks)


def test_draws_are_repeated_and_stay_in_range() -> None:
    view = SegmentedView(size=24, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    seen = set()
    for seed in range(8):
        first, again = (view(_row(), np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first["image"], again["image"]) and torch.equal(first["mask"], again["mask"])
        assert 0 <= float(first["image"].min()) <= float(first["image"].max()) <= 1
        seen.add(float(first["image"].sum()))
    assert len(seen) == 8


def test_colours_change_and_masks_do_not() -> None:
    image, mask = _square(1)
    other, same = _square(1, jitter_probability=1.0)
    assert torch.equal(mask, same) and float((image - other).abs().max()) > 0.02


def test_rows_that_cannot_be_used() -> None:
    row = _row()
    good = picture_with_mask(row, classes=12)
    assert good[0].shape == (3, 40, 56) and good[0].dtype == torch.uint8 and good[1].shape == (40, 56)
    with pytest.raises(BadRow, match="it has no mask"):
        picture_with_mask({**row, "mask": None})
    with pytest.raises(BadRow, match="picture and mask differ in size: 56 x 40 and 9 x 40 pixels"):
        picture_with_mask({**row, "mask": np.zeros((40, 9), dtype=np.uint8)})
    mask = np.zeros((40, 56), dtype=np.int64)
    mask[0, :2] = (IGNORED, 12)
    with pytest.raises(BadRow, match="its mask holds 12; classes are 0 to 11, and 255 is ignored"):
        picture_with_mask({**row, "mask": mask}, classes=12)
    mask[0, 1] = -1
    with pytest.raises(BadRow, match="its mask holds -1"):
        picture_with_mask({**row, "mask": mask}, classes=12)
    with pytest.raises(BadRow):
        SegmentedView(size=32)({**row, "mask": b"no picture"}, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"resize": (2.0, 1.0)}, "resize must be"),
        ({"flip": 1.5}, "flip is a probability"),
        ({"jitter_probability": -0.1}, "jitter_probability is a probability"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, "jitter must be four strengths"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentedView(**settings)
