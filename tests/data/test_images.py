from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import BLUE, GREEN, RED, animated, broken, damaged, encoded, odd, png_bomb, quarters, with_orientation
from PIL import Image

from counterpoint.data import BadRow
from counterpoint.data.images import decode, encode_png, looks_like_image, plain_jpeg


def corner(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    pixel = image.getpixel((x if x >= 0 else image.width + x, y if y >= 0 else image.height + y))
    assert isinstance(pixel, tuple)
    return pixel


def near(pixel: tuple[int, ...], colour: tuple[int, ...], within: int = 24) -> bool:
    return all(abs(a - b) <= within for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize("name", sorted(odd()))
def test_odd_pictures_become_rgb(name: str) -> None:
    image = decode(odd()[name])
    assert image.mode == "RGB"
    assert min(image.size) >= 8


@pytest.mark.parametrize("name", sorted(broken()))
def test_broken_pictures_are_bad_rows_with_a_reason(name: str) -> None:
    with pytest.raises(BadRow) as caught:
        decode(broken()[name])
    assert "\n" not in caught.value.reason and len(caught.value.reason) > 8


@pytest.mark.parametrize(
    ("orientation", "top_left", "top_right"),
    [
        (1, RED, GREEN),
        (2, GREEN, RED),
        (3, (255, 255, 255), BLUE),
        (4, BLUE, (255, 255, 255)),
        (5, RED, BLUE),
        (6, BLUE, RED),
        (7, (255, 255, 255), GREEN),
        (8, GREEN, (255, 255, 255)),
    ],
)
def test_exif_orientation(orientation: int, top_left: tuple[int, ...], top_right: tuple[int, ...]) -> None:
    image = decode(with_orientation(orientation))
    assert corner(image, 0, 0) == top_left and corner(image, -1, 0) == top_right


def test_sixteen_bits_keep_their_range() -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode(encoded(Image.fromarray(ramp), kind)))[..., 0]
        assert np.array_equal(found.ravel(), np.arange(256))


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 10, 10, 0))
    assert corner(decode(encoded(clear, "PNG")), 0, 0) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 10, 10] * 256)
    assert corner(decode(encoded(palette, "PNG", transparency=0)), 0, 0) == (255, 255, 255)
    half = Image.new("LA", (4, 4), (0, 128))
    assert near(corner(decode(encoded(half, "PNG")), 0, 0), (127, 127, 127), 2)


def test_cmyk_keeps_its_colours() -> None:
    image = decode(encoded(quarters(64).convert("CMYK"), "JPEG", quality=95))
    assert near(corner(image, 2, 2), RED) and near(corner(image, -3, 2), GREEN)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    assert near(corner(decode(animated(kind)), 3, 3), RED, 8)


def test_smallest_side_decodes_large_jpegs_small() -> None:
    large = encoded(quarters(640), "JPEG")
    small = decode(large, smallest_side=100)
    assert 100 <= min(small.size) < 200
    assert near(corner(small, 5, 5), RED)
    assert decode(large, smallest_side=640).size == (640, 640)
    assert decode(large, smallest_side=2000).size == (640, 640)
    grey = encoded(quarters(640).convert("L"), "JPEG")
    assert min(decode(grey, smallest_side=64).size) < 200


def test_header_is_checked_before_decoding() -> None:
    with pytest.raises(BadRow, match="50000 x 50000|too many pixels|exceeds limit"):
        decode(png_bomb())
    with pytest.raises(BadRow, match="more than the limit of 255"):
        decode(encoded(quarters(16), "PNG"), max_pixels=255)
    assert decode(encoded(quarters(16), "PNG"), max_pixels=256).size == (16, 16)


def test_pillows_bomb_warning_is_an_error_and_its_limit_comes_back() -> None:
    before = Image.MAX_IMAGE_PIXELS
    wide = encoded(Image.new("1", (10_000, 9_000)), "PNG")  # above Pillow's limit, below its double: only a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(BadRow):
            decode(wide)
        assert decode(wide, max_pixels=100_000_000).size == (10_000, 9_000)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((6, 5), np.uint8),
        np.zeros((6, 5, 1), np.uint8),
        np.zeros((6, 5, 3), np.uint8),
        np.zeros((6, 5, 4), np.uint8),
        np.zeros((3, 6, 5), np.uint8),
        np.zeros((6, 5), np.uint16),
        np.zeros((6, 5), bool),
        np.zeros((6, 5, 3), np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays(array: np.ndarray) -> None:
    image = decode(array)
    assert image.mode == "RGB" and image.size == (5, 6)


def test_array_values() -> None:
    assert corner(decode(np.full((2, 2), 0.5)), 0, 0) == (128, 128, 128)
    assert corner(decode(np.full((2, 2), 65535, np.uint16)), 0, 0) == (255, 255, 255)
    assert corner(decode(np.full((2, 2), True)), 0, 0) == (255, 255, 255)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "NoneType is no picture"),
        (7, "int is no picture"),
        (np.zeros((2, 3, 5), np.uint8), "shape"),
        (np.zeros((0, 3), np.uint8), "empty"),
        (np.full((2, 2), np.nan), "scale it to"),
        (np.full((2, 2), 200.0), "scale it to"),
        (np.zeros((2, 2), np.int64), "int64"),
        ("no/such/file.jpg", "No such file"),
        ("https://example.org/a.jpg", "address"),
        ("a\0b.jpg", "cannot be read"),
        (b"", "empty file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "HTML or XML"),
        ({"bytes": None, "path": None}, "NoneType"),
    ],
)
def test_what_is_no_picture_says_so(value: Any, words: str) -> None:
    with pytest.raises(BadRow, match=words):
        decode(value)


def test_pipes_and_folders_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path):
        with pytest.raises(BadRow, match="not a regular file"):
            decode(path)


def test_postscript_is_never_opened() -> None:
    with pytest.raises(BadRow):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")


def test_forms_of_one_picture_agree(tmp_path: Path) -> None:
    content = encode_png(np.asarray(quarters()))
    (tmp_path / "a.png").write_bytes(content)
    expected = np.asarray(quarters())
    values = [content, memoryview(content), tmp_path / "a.png", str(tmp_path / "a.png"), quarters(), expected]
    for value in [*values, {"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]:
        assert np.array_equal(np.asarray(decode(value)), expected)


def test_signatures() -> None:
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"):
        assert looks_like_image(encoded(quarters(), kind)[:16]), kind
    assert not looks_like_image(b"<html>") and not looks_like_image(b"") and not looks_like_image(b"%PDF-1.7")


_SEEDS = [encoded(quarters(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_bad_row(data: st.DataObject) -> None:
    content = damaged(data, _SEEDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata
        try:
            assert decode(content, max_pixels=1_000_000).mode == "RGB"
        except BadRow as error:
            assert error.reason


def test_decoded_picture_owns_its_pixels() -> None:
    buffer = io.BytesIO()
    quarters().save(buffer, "PNG")
    image = decode(buffer.getvalue())
    assert type(image) is Image.Image
    image.putpixel((0, 0), (1, 2, 3))


def test_plain_jpegs_are_those_that_any_decoder_reads_alike(tmp_path: Path) -> None:
    def made(mode: str = "RGB", kind: str = "JPEG", **settings: Any) -> bytes:
        file = io.BytesIO()
        Image.new(mode, (64, 48)).save(file, kind, **settings)
        return file.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    data, path = made(), tmp_path / "picture"
    path.write_bytes(data)
    assert plain_jpeg(data) == plain_jpeg({"bytes": data}) == plain_jpeg(path) == data
    assert plain_jpeg(data, smallest_side=25) == data  # 1/2 of its size would be 24 pixels high
    others = [made("L"), made("CMYK"), made(kind="PNG"), made(exif=turned), data[:20], b"", 5, Image.new("RGB", (4, 4))]
    assert [plain_jpeg(other) for other in others] == [None] * len(others)
    assert plain_jpeg(data, smallest_side=24) is None
