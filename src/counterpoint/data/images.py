"""Decode any picture people keep on disk into RGB, or say in one line why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from PIL import Image

from counterpoint.data.errors import BadRow
from counterpoint.data.media import head_of, media_source

__all__ = ["EXTENSIONS", "IGNORED", "decode", "decode_mask", "encode_png", "looks_like_image", "plain_jpeg"]

MAX_PIXELS = 89_478_485
"""Pillow's own limit: the pixels of 256 MB at 3 bytes each."""

IGNORED = 255
"""Value of mask pixels that count for nothing."""

EXTENSIONS = frozenset(  # fmt: skip
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
        ".j2k",
        ".ico",
        ".mpo",
    ]
)
"""File name endings that are taken for pictures without looking inside."""

# Only bitmap formats that Pillow decodes itself: its EPS reader starts Ghostscript, others open further
# files.
Image.init()
_FORMATS = tuple(
    name
    for name in ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
    if name in Image.OPEN
)

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"P4", b"P5", b"P6")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_limit_lock = RLock()


def looks_like_image(head: bytes) -> bool:
    """Whether the first bytes of a file (16 are enough) are those of a bitmap format that `decode` reads."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head[4:12] in (b"ftypavif", b"ftypavis", b"jP  \r\n\x87\n"):
        return True
    return head.startswith(_SIGNATURES)


def decode(value: Any, *, max_pixels: int = MAX_PIXELS, smallest_side: int | None = None) -> Image.Image:
    """A picture in RGB, upright, 8 bits a channel.

    Grey, palette, CMYK and 16-bit pictures are converted; transparency is laid on white; of an animation the
    first frame is taken; the EXIF orientation is applied. The size is read from the header and checked before
    any pixel.

    Args:
        value: bytes, a path, a PIL image, an array, or a mapping with `bytes` or `path` (the hub's form).
            Arrays are (H, W), (H, W, 1|3|4) or (1|3|4, H, W); uint8, uint16, bool, or float in [0, 1].
        max_pixels: width times height that is refused above.
        smallest_side: at least this many pixels of the shorter side are needed; a large JPEG is then decoded
            at 1/2, 1/4 or 1/8 of its size, which is several times faster. Never enlarges.

    Raises:
        BadRow: not a picture, damaged, too large, or a value that holds no picture.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, np.ndarray):
        return _from_array(value, max_pixels)
    if isinstance(value, Image.Image):
        _check_size(value, max_pixels)
        return _to_rgb(_upright(value))
    source = _open_source(value)
    try:
        with _pixel_limit(max_pixels), Image.open(source, formats=_FORMATS) as image:
            _check_size(image, max_pixels)
            orientation = _orientation(image)
            if smallest_side is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (smallest_side, smallest_side))
            image.load()
            return _to_rgb(_turn(image, orientation))
    except BadRow:
        raise
    except Exception as error:  # decoders raise a dozen kinds of error on damaged bytes: all mean a bad row
        raise BadRow(_reason(error, value)) from error


def plain_jpeg(value: Any, *, smallest_side: int | None = None) -> bytes | None:
    """The bytes of a picture of which any JPEG decoder makes what `decode` makes, else None.

    That is a JPEG in colour and upright, not too large, and not so large that `decode` would reduce it. Only the header
    is read: None says nothing about the picture, and bytes may still be damaged.

    Args:
        value: as for `decode`.
        smallest_side: as for `decode`.
    """
    if isinstance(value, np.ndarray | Image.Image):
        return None
    try:
        source = _open_source(value)
        with _pixel_limit(MAX_PIXELS), Image.open(source, formats=("JPEG",)) as image:
            size = image.size
            if image.format != "JPEG" or image.mode != "RGB" or _orientation(image) in _TURNS:
                return None
            if size[0] * size[1] > MAX_PIXELS:
                return None
            if smallest_side is not None:
                image.draft("RGB", (smallest_side, smallest_side))
            reduced = image.size != size
    except Exception:  # whatever is wrong with it, `decode` says it better
        return None
    if reduced:
        return None
    return source.read_bytes() if isinstance(source, Path) else source.getvalue()


def decode_mask(value: Any, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture of class numbers as (H, W) int64: one channel of 1, 8 or 16 bits, or a palette's numbers.

    Args:
        value: bytes, a path, a PIL image, or an array (H, W) of whole numbers.
        max_pixels: width times height that is refused above.

    Raises:
        BadRow: not a picture, damaged, too large, or with more than one channel.
    """
    try:
        if isinstance(value, np.ndarray | Image.Image):
            found = np.asarray(value)
        else:
            with _pixel_limit(max_pixels), Image.open(_open_source(value), formats=_FORMATS) as image:
                _check_size(image, max_pixels)
                found = np.asarray(image)
    except BadRow:
        raise
    except Exception as error:  # as in `decode`
        raise BadRow(f"mask: {_reason(error, value)}") from error
    if found.ndim != 2 or not found.size or found.dtype.kind not in "iub":
        raise BadRow(f"a mask has one channel of class numbers, got shape {found.shape} of {found.dtype}")
    return found.astype(np.int64)


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of an (H, W) or (H, W, 3|4) uint8 array."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _open_source(value: Any) -> Path | io.BytesIO:
    return media_source(value, "picture", "bytes, a path, a PIL image or an array")


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's warning about large pictures becomes an error; its limit follows ours where ours is larger."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        usual = Image.MAX_IMAGE_PIXELS
        if usual is not None and max_pixels <= usual:
            yield
            return
        with _limit_lock:
            Image.MAX_IMAGE_PIXELS = max_pixels
            try:
                yield
            finally:
                Image.MAX_IMAGE_PIXELS = usual


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise BadRow(f"{width} x {height} pixels are more than the limit of {max_pixels} (max_pixels)")
    if width * height == 0:
        raise BadRow(f"{width} x {height} pixels: empty picture")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels: take the picture as it lies
        return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _upright(image: Image.Image) -> Image.Image:
    return _turn(image, _orientation(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":  # 16-bit greys are stored in 32 bits by some readers
        values = np.asarray(image).clip(0, 65535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return _from_array(np.asarray(image), MAX_PIXELS)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    channels = (1, 3, 4)
    if array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = array.transpose(1, 2, 0)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in channels):
        raise BadRow(f"array of shape {array.shape} is no picture: give (H, W) or (H, W, 1|3|4)")
    if array.shape[0] * array.shape[1] > max_pixels or array.size == 0:
        raise BadRow(f"array of shape {array.shape}: empty, or more than {max_pixels} pixels (max_pixels)")
    values = _eight_bits(array)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(values)))


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):  # also true for NaN
            raise BadRow(f"float picture with values from {low:g} to {high:g}: scale it to [0, 1]")
        return np.round(array * 255).astype(np.uint8)
    raise BadRow(f"array of {array.dtype}: give uint8, uint16, bool, or float in [0, 1]")


def _reason(error: Exception, value: Any) -> str:
    if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
        return f"too many pixels: {error}"
    if isinstance(error, Image.UnidentifiedImageError):
        head = head_of(_open_source(value)).lstrip().lower()
        if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")):
            return "HTML or XML text, not a picture"
        return "not a picture that can be decoded"
    text = " ".join(str(error).split())
    return f"damaged picture: {text or type(error).__name__}"
