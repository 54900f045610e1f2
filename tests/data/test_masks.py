"""Pictures of class numbers: every form keeps its numbers, and what holds none is one bad row."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import damaged, encoded, png_bomb, quarters
from PIL import Image

from counterpoint.data import BadRow
from counterpoint.data.images import decode_mask, encode_png

NUMBERS = np.array([[0, 1, 2], [7, 254, 255]], dtype=np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _palette() -> Image.Image:
    """Numbers whose colours are all the same: read as colours they would be lost."""
    image = Image.fromarray(NUMBERS).convert("P")
    image.putdata(NUMBERS.ravel().tolist())
    image.putpalette([9, 9, 9] * 256)
    return image


def test_every_form_keeps_its_numbers(tmp_path: Path) -> None:
    content = encode_png(NUMBERS)
    (tmp_path / "a.png").write_bytes(content)
    values = [content, memoryview(content), tmp_path / "a.png", str(tmp_path / "a.png"), NUMBERS]
    values += [Image.fromarray(NUMBERS), _palette(), _png(_palette()), NUMBERS.astype(np.int32)]
    for value in values:
        found = decode_mask(value)
        assert found.dtype == np.int64 and np.array_equal(found, NUMBERS)


def test_sixteen_bits_and_one() -> None:
    large = NUMBERS.astype(np.uint16) * 257
    assert np.array_equal(decode_mask(encode_png(large)), large)
    assert np.array_equal(decode_mask(_png(Image.fromarray(NUMBERS > 1))), (NUMBERS > 1).astype(int))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 2, 3), np.uint8),
        np.zeros((2, 2), np.float32),
        np.zeros((0, 2), np.uint8),
        quarters(),
        encoded(quarters(), "PNG"),
        encode_png(NUMBERS)[:30],
        b"",
        "no such file.png",
        None,
    ],
    ids=[
        "three channels",
        "float",
        "no rows",
        "colours",
        "colours in a file",
        "cut short",
        "nothing",
        "no file",
        "none",
    ],
)
def test_what_holds_no_numbers(value: object) -> None:
    with pytest.raises(BadRow):
        decode_mask(value)


def test_too_large_is_refused_before_any_pixel() -> None:
    with pytest.raises(BadRow, match="pixels"):
        decode_mask(png_bomb())
    with pytest.raises(BadRow, match="pixels"):
        decode_mask(encode_png(NUMBERS), max_pixels=5)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_give_a_mask_or_a_bad_row(data: st.DataObject) -> None:
    content = damaged(data, [encode_png(NUMBERS), _png(_palette()), encoded(quarters(), "TIFF")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata
        try:
            assert decode_mask(content, max_pixels=1_000_000).ndim == 2
        except BadRow as error:
            assert error.reason
