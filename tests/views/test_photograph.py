"""Views of whole photographs: geometry without colour, and the two kinds of sources."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.data import BadRow
from counterpoint.views.photograph import LitPhotograph, Photograph, turned_and_zoomed

PLAIN = {"flip": 0.0, "transpose": 0.0, "zoom_probability": 0.0, "turn_probability": 0.0}


def _row(**values: Any) -> dict[str, Any]:
    across, down = np.meshgrid(np.linspace(0, 255, 32), np.linspace(0, 255, 32))
    grid = np.stack([across, down, np.zeros_like(across)], axis=2).round().astype(np.uint8)
    return {"id": "grid", "image": Image.fromarray(grid), **values}


def _view(seed: int = 0, **settings: Any) -> torch.Tensor:
    return Photograph(size=32, **{**PLAIN, **settings})(_row(), np.random.default_rng(seed))["image"]


def test_without_chance_it_is_the_picture() -> None:
    found = _view()
    wanted = torch.from_numpy(np.array(_row()["image"])).permute(2, 0, 1) / 255
    torch.testing.assert_close(found, wanted)


def test_flips_and_transposition() -> None:
    torch.testing.assert_close(_view(flip=1.0), _view().flip(1, 2))
    torch.testing.assert_close(_view(transpose=1.0), _view().mT)


def test_turns_about_the_centre() -> None:
    picture = _view()
    torch.testing.assert_close(
        turned_and_zoomed(picture, degrees=90.0, zoom=1.0), torch.rot90(picture, 1, (1, 2)), atol=1e-4, rtol=0
    )


def test_zooms_in_and_mirrors_when_it_zooms_out() -> None:
    picture = _view()
    near = turned_and_zoomed(picture, degrees=0.0, zoom=2.0)
    torch.testing.assert_close(near[0, 0, [0, -1]], picture[0, 0, [8, 23]], atol=0.02, rtol=0)
    far = turned_and_zoomed(picture, degrees=0.0, zoom=0.5)
    torch.testing.assert_close(far[0, 16, :8], far[0, 16, 8:16].flip(0), atol=0.02, rtol=0)


def test_colours_stay_and_draws_are_repeated() -> None:
    view = Photograph(size=24)
    for seed in range(8):
        found = view(_row(), np.random.default_rng(seed))["image"]
        assert found.shape == (3, 24, 24) and 0 <= float(found.min()) <= float(found.max()) <= 1
        assert float(found[2].max()) == 0.0
        assert torch.equal(found, view(_row(), np.random.default_rng(seed))["image"])
    assert not torch.equal(view(_row(), np.random.default_rng(0))["image"], found)


def test_sources() -> None:
    view = LitPhotograph(Photograph(size=8))
    for source, wanted in (("backlit", 0), ("welllit", 1)):
        assert view(_row(source=source), np.random.default_rng(0))["welllit"] == wanted
    for row in (_row(), _row(source="night")):
        with pytest.raises(BadRow, match="not 'backlit' or 'welllit': give the data as backlit="):
            view(row, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 1}, "size"), ({"flip": 1.5}, "probability"), ({"zoom": (0.0, 1.0)}, "zoom must be")],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Photograph(**settings)
