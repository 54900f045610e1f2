"""A film as a strip of its frames."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.data import BadRow
from counterpoint.reporting.thumbnails import drawn_column, thumbnail
from films import film, number_of, numbered


def test_four_frames_in_order() -> None:
    assert drawn_column(["text", "video"]) == "video"
    strip = thumbnail("video", film(numbered(40, 96, 128)), 48)
    assert strip.size == (4 * 64 + 3 * 2, 48) and strip.mode == "RGB"
    pixels = np.asarray(strip)
    assert [number_of(pixels[:, 66 * place : 66 * place + 64]) for place in range(4)] == [5, 15, 25, 35]
    assert (pixels[:, 64:66] == 255).all()


def test_small_tall_and_short_films() -> None:
    assert thumbnail("video", numbered(1, 20, 30), 64).size == (4 * 30 + 6, 20)
    assert thumbnail("video", numbered(9, 300, 100), 50).size == (4 * 17 + 6, 50)
    assert thumbnail("video", numbered(9, 50, 900), 50).size[0] == 4 * 100 + 6, "at most twice as wide as high"
    with pytest.raises(BadRow):
        thumbnail("video", b"no film", 64)
