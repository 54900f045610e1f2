"""A point cloud as a picture: from above, and from the side below it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["cloud_colours", "draw_cloud"]

_GROUND = np.array([16, 18, 24], dtype=np.uint8)
_RAMP = np.array([[58, 76, 192], [64, 160, 200], [120, 200, 120], [240, 210, 80], [220, 70, 50]], dtype=np.float64)
"""From low to high."""
_MOST = 2_000_000
"""Points that are drawn; of more, every second, third ... one."""
_TAIL = 0.5
"""Percent of the points on each side that may lie outside the picture: a stray return must not shrink all others."""


def cloud_colours(cloud: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, 3) uint8: the points' own colours, else their height."""
    if "colour" in cloud:
        return np.round(cloud["colour"] * 255).astype(np.uint8)
    height = cloud["xyz"][:, 2]
    low, high = np.percentile(height, [1, 99])
    place = ((height - low) / max(high - low, 1e-6)).clip(0, 1) * (len(_RAMP) - 1)
    before = np.minimum(place.astype(int), len(_RAMP) - 2)
    share = (place - before)[:, None]
    return np.round(_RAMP[before] * (1 - share) + _RAMP[before + 1] * share).astype(np.uint8)


def draw_cloud(xyz: np.ndarray, colours: np.ndarray, side: int) -> np.ndarray:
    """(H, side, 3) uint8, H at most 2 * side: seen from above (x to the right, y up), and from the front of y below.

    Args:
        xyz: (N, 3) metres.
        colours: (N, 3) uint8.
        side: pixels across.

    Raises:
        ValueError: no points, or other shapes.
    """
    if xyz.ndim != 2 or xyz.shape[1:] != (3,) or colours.shape != xyz.shape or not len(xyz):
        raise ValueError(f"xyz and colours must both be (N, 3), got {xyz.shape} and {colours.shape}")
    step = -(-len(xyz) // _MOST)
    xyz, colours = xyz[::step], colours[::step]
    low, high = np.percentile(xyz, [_TAIL, 100 - _TAIL], axis=0)
    extent = np.maximum(high - low, 1e-3)
    scale = (side - 1) / max(extent[0], extent[1])  # pixels a metre, the same in both pictures
    above = _project(xyz[:, 0], xyz[:, 1], xyz[:, 2], colours, (low[0], low[1]), (extent[0], extent[1]), scale, side)
    front = _project(xyz[:, 0], xyz[:, 2], -xyz[:, 1], colours, (low[0], low[2]), (extent[0], extent[2]), scale, side)
    line = np.full((1, side, 3), 90, dtype=np.uint8)
    return np.concatenate([above, line, front[:side]])


def _project(
    across: np.ndarray,
    up: np.ndarray,
    nearness: np.ndarray,
    colours: np.ndarray,
    low: tuple[float, float],
    extent: tuple[float, float],
    scale: float,
    side: int,
) -> np.ndarray:
    """One view; of points on the same pixel the nearest is seen."""
    rows = min(side, max(int(np.ceil(extent[1] * scale)) + 1, 8))
    picture = np.tile(_GROUND, (rows, side, 1))
    margin = (side - 1 - extent[0] * scale) / 2
    column = np.floor((across - low[0]) * scale + margin).astype(int)
    row = rows - 1 - np.floor((up - low[1]) * scale).astype(int)
    order = np.argsort(nearness, kind="stable")
    order = order[(column[order] >= 0) & (column[order] < side) & (row[order] >= 0) & (row[order] < rows)]
    size = 1 if side < 200 else 2
    for down in range(size):
        for right in range(size):
            picture[np.minimum(row[order] + down, rows - 1), np.minimum(column[order] + right, side - 1)] = colours[
                order
            ]
    return picture
