"""The bookkeeping of where a crop lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.losses.pixel_consistency import cell_centres
from counterpoint.views.located import LocatedViews, place_of, solarise


def test_places_say_what_a_cell_shows() -> None:
    """Red grows from left to right and green downwards, so every cell's colour is its place, mirrored or not."""
    height, width = 90, 120
    grid = np.zeros((height, width, 3), dtype=np.uint8)
    grid[..., 0] = np.round(np.linspace(0, 255, width))[None]
    grid[..., 1] = np.round(np.linspace(0, 255, height))[:, None]
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "jitter_probability": 0.0, "grey": 0.0, "blur": 0.0}
    view = LocatedViews(size=32, scale=(0.3, 1.0), second_blur=0.0, second_solarise=0.0, **plain)  # type: ignore[arg-type]
    mirrored = set()
    for seed in range(12):
        sample = view({"id": "grid", "image": Image.fromarray(grid)}, np.random.default_rng(seed))
        for name in ("first", "second"):
            place = sample[f"{name}_place"]
            mirrored.add(bool(place[2] < place[0]))
            colours = torch.nn.functional.avg_pool2d(sample[name], 8)[:2].flatten(1).T  # (16, 2)
            centres, _ = cell_centres(place[None], 4, 4)
            torch.testing.assert_close(colours, centres[0], atol=0.012, rtol=0)  # half a pixel and rounding
    assert mirrored == {True, False}


def test_place_of_a_crop() -> None:
    assert place_of((0, 0, 11, 6), width=11, height=6) == (0.0, 0.0, 1.0, 1.0)
    assert place_of((2, 1, 6, 3), width=11, height=6, flipped=True) == (0.5, 0.2, 0.2, 0.4)
    assert place_of((2, 1, 6, 3), width=11, height=6, upside_down=True) == (0.2, 0.4, 0.5, 0.2)
    assert place_of((0, 0, 1, 1), width=1, height=1) == (0.0, 0.0, 0.0, 0.0)


def test_solarise_inverts_the_bright_half() -> None:
    values = torch.tensor([0.0, 127 / 255, 128 / 255, 1.0])
    torch.testing.assert_close(solarise(values), torch.tensor([0.0, 127 / 255, 127 / 255, 0.0]))


def test_a_probability_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="probability"):
        LocatedViews(second_solarise=2.0)
