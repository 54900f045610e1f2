"""A point cloud seen from above, and from the side below it."""

from __future__ import annotations

from typing import Any

from PIL import Image

from counterpoint.data.scans import read_points
from counterpoint.predict.cloud_picture import cloud_colours, draw_cloud

__all__ = ["thumbnail"]


def thumbnail(value: Any, side: int) -> Image.Image:
    """RGB, neither side above `side` pixels: the points in their own colours, or coloured by height."""
    cloud = read_points(value)
    picture = Image.fromarray(draw_cloud(cloud["xyz"], cloud_colours(cloud), side))
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return picture
