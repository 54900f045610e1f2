"""A picture, smaller."""

from __future__ import annotations

from typing import Any

from PIL import Image

from counterpoint.data.images import decode

__all__ = ["thumbnail"]


def thumbnail(value: Any, side: int) -> Image.Image:
    """RGB, neither side above `side` pixels."""
    image = decode(value, smallest_side=side)
    image.thumbnail((side, side))
    return image
