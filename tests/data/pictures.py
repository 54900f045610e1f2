"""Small pictures of every odd kind, and the broken files that lie between them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def quarters(size: int = 16) -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right: every turn and flip looks different."""
    array = np.full((size, size, 3), 255, dtype=np.uint8)
    half = size // 2
    array[:half, :half], array[:half, half:], array[half:, :half] = RED, GREEN, BLUE
    return Image.fromarray(array)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(number: int) -> bytes:
    """A 12 x 12 JPEG that differs with `number`."""
    array = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return encoded(Image.fromarray(array.repeat(4, 0).repeat(4, 1)), "JPEG")


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(quarters(), "PNG", exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def odd() -> dict[str, bytes]:
    """File name -> a good picture of an unusual kind or name."""
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    return {
        "grey.png": encoded(quarters().convert("L"), "PNG"),
        "sixteen.png": encoded(Image.fromarray(grey * 257), "PNG"),
        "sixteen.tif": encoded(Image.fromarray(grey * 257), "TIFF"),
        "cmyk.jpg": encoded(quarters().convert("CMYK"), "JPEG"),
        "palette.gif": encoded(quarters().convert("P"), "GIF"),
        "rgba.png": encoded(quarters().convert("RGBA"), "PNG"),
        "rotated.png": with_orientation(6),
        "animated.gif": animated("GIF"),
        "animated.webp": animated("WEBP"),
        "no ending": plain(1),
        "WRONG.ENDING.png": plain(2),
        "写真 фото صورة.jpg": plain(3),
        "quote'\"; $(x).jpg": plain(4),
    }


def broken() -> dict[str, bytes]:
    """File name -> bytes of a file that no reader can decode."""
    whole = encoded(quarters(64), "PNG")
    jpeg = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    return {
        "truncated.png": whole[: len(whole) // 2],
        "truncated.jpg": jpeg[: len(jpeg) // 3],
        "zero.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "noise.png": bytes(range(200)),
        "header-only.png": whole[:33],
    }


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(width: int = 50_000, height: int = 50_000) -> bytes:
    """A valid 1-bit PNG of 2.5 gigapixels in about 300 kB."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\0" * (width // 8)
    pieces = [packer.compress(row * 100) for _ in range(height // 100)]
    content = b"".join(pieces) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", content) + png_chunk(b"IEND", b"")


def dirty_folder(folder: Path, *, good: int = 970) -> tuple[int, dict[str, str]]:
    """Write `good` usable and 30 broken pictures; returns how many are usable and what is broken by name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = odd()
    for number in range(good - len(files)):
        files[f"picture-{number:04d}.jpg"] = plain(number)
    bad: dict[str, str] = {}
    kinds = broken()
    for number in range(30):
        name = sorted(kinds)[number % len(kinds)]
        bad[f"bad-{number:02d}-{name}"] = name
        files[f"bad-{number:02d}-{name}"] = kinds[name]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return good, bad


def damaged(data: st.DataObject, contents: list[bytes]) -> bytes:
    """One of the contents with up to six bytes changed, and cut short."""
    content = bytearray(data.draw(st.sampled_from(contents)))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    return bytes(content)
