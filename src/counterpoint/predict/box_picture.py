"""Boxes over a cloud of points, seen from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from counterpoint.predict.cloud_picture import cloud_colours
from counterpoint.predict.overlay import class_colours

__all__ = ["draw_boxes"]

_DARK = (16, 18, 24)
_DIM = 0.85
"""Brightness of the points: boxes must stand out."""
_STRAY = 1.0  # percent of the points on each side that need not be seen


def draw_boxes(
    cloud: Mapping[str, np.ndarray], boxes: Sequence[Mapping[str, Any]], names: Sequence[str], side: int
) -> np.ndarray:
    """(side, side, 3) uint8: points by height, boxes in the colours of their classes with a line to their front.

    x runs up and y to the left, as one sees it from the driver's seat.

    Args:
        cloud: as `read_points` gives it.
        boxes: as `Detect.detect` gives them.
        names: of the classes; their order gives the colours.
        side: pixels.
    """
    flat = cloud["xyz"][:, :2].astype(np.float64)
    corners = {number: _corners(box) for number, box in enumerate(boxes)}
    seen = np.concatenate([np.percentile(flat, [_STRAY, 100 - _STRAY], axis=0), *corners.values()])  # (., 2)
    low, high = seen.min(axis=0), seen.max(axis=0)
    middle, scale = (low + high) / 2, (side - 1) / max(1.05 * float((high - low).max()), 1e-3)

    def place(points: np.ndarray) -> np.ndarray:
        """(P, 2) metres -> column and row."""
        return (side - 1) / 2 - (points - middle)[:, ::-1] * scale

    picture = np.empty((side, side, 3), dtype=np.uint8)
    picture[:] = _DARK
    order = np.argsort(cloud["xyz"][:, 2], kind="stable")  # what is higher is seen
    pixel = np.round(place(flat[order])).astype(int)
    inside = ((pixel >= 0) & (pixel < side)).all(axis=1)
    column, row = pixel[inside].T
    colours = np.round(_DIM * cloud_colours(cloud)[order][inside]).astype(np.uint8)
    for down in range(2):
        for right in range(2):
            picture[np.minimum(row + down, side - 1), np.minimum(column + right, side - 1)] = colours
    image = Image.fromarray(picture)
    pen, of_class = ImageDraw.Draw(image), class_colours(len(names))
    for number, box in enumerate(boxes):
        colour = tuple(of_class[list(names).index(box["label"])].tolist())
        edge = [tuple(point) for point in place(corners[number])]
        pen.line([*edge, edge[0]], fill=colour, width=2)
        front = place(np.stack([np.array(box["centre"][:2]), corners[number][:2].mean(axis=0)]))
        pen.line([tuple(point) for point in front], fill=colour, width=2)
    return np.asarray(image)


def _corners(box: Mapping[str, Any]) -> np.ndarray:
    """(4, 2): front left, front right, back right, back left."""
    length, width = box["size"][:2]
    local = np.array([[length, width], [length, -width], [-length, -width], [-length, width]]) / 2
    cosine, sine = math.cos(box["yaw"]), math.sin(box["yaw"])
    return local @ np.array([[cosine, sine], [-sine, cosine]]) + np.array(box["centre"][:2])
