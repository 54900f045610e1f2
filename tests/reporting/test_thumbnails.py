from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import BadRow
from counterpoint.reporting.thumbnails import drawn_column, list_thumbnails, thumbnail


def test_pictures_come_first() -> None:
    assert list_thumbnails()[0] == "image"
    assert drawn_column(["text", "label"]) is None
    assert drawn_column(["text", "image", "label"]) == "image"


def test_a_picture_is_made_smaller_and_keeps_its_shape() -> None:
    found = thumbnail("image", np.zeros((40, 200, 3), dtype=np.uint8), 64)
    assert found.size == (64, 13) and found.mode == "RGB"
    file = io.BytesIO()
    Image.new("L", (8, 6)).save(file, format="PNG")
    assert thumbnail("image", file.getvalue(), 64).size == (8, 6)
    with pytest.raises(BadRow):
        thumbnail("image", b"no picture", 64)
