"""Segments of a street as a laser scanner sees it: ground planes, then what hangs together above them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["clusters", "ground_planes", "numbered", "outdoor"]

_SECTORS = 8
_TRIALS = 100
"""Planes tried in a sector: where half of the points are ground, three random ones lie there in an eighth of them."""
_UPRIGHT = 0.9
"""Smallest upward part of the normal of a ground plane."""
_THIN = 0.1
"""Metres: clustering looks at one point of every cell of this size."""
_FAR = 30.0
_ANGLES = np.radians(np.arange(0, 90, 5))


def outdoor(
    xyz: np.ndarray,
    *,
    seed: int,
    ground: float,
    radius: tuple[float, float],
    height: tuple[float, float],
    footprint: tuple[float, float],
    least: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Segment of each point (N,), -1 for noise, and whether each segment is foreground (S,); see `Supervoxels`.

    The ground of each of 8 sectors is a segment of its own.
    """
    of_point = ground_planes(xyz, threshold=ground, rng=np.random.default_rng(seed))  # (N,), -1 above ground
    above = np.flatnonzero(of_point < 0)
    of_point[above] = clusters(xyz[above], radius=radius) + _SECTORS
    of_point = numbered(of_point, least)
    extents = _extents(xyz, of_point)  # (S, 3): length, width, height
    grounds = np.unique(of_point[np.setdiff1d(np.arange(len(xyz)), above)])
    foreground = (extents[:, 2] >= height[0]) & (extents[:, 2] <= height[1])
    foreground &= (extents[:, 0] <= footprint[0]) & (extents[:, 1] <= footprint[1])
    foreground[grounds[grounds >= 0]] = False
    return of_point, foreground


def ground_planes(xyz: np.ndarray, *, threshold: float, rng: np.random.Generator) -> np.ndarray:
    """Sector (N,) from 0 to 7 of the points within `threshold` of their sector's ground plane, -1 elsewhere.

    RANSAC: of planes through 3 random points of the sector that are nearly level, the one with the most points near it.
    """
    found = np.full(len(xyz), -1)
    sector = (np.floor((np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * np.pi) + 0.5) * _SECTORS) % _SECTORS).astype(int)
    for number in range(_SECTORS):
        drawn = rng.random((_TRIALS, 3))  # always drawn, so that sectors do not disturb each other
        members = np.flatnonzero(sector == number)
        if len(members) < 3:
            continue
        points = xyz[members]
        corners = points[(drawn * len(points)).astype(int)]  # (T, 3 corners, 3)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1)
        normals = normals / np.maximum(lengths, 1e-12)[:, None]
        level = (np.abs(normals[:, 2]) > _UPRIGHT) & (lengths > 1e-9)
        if not level.any():
            continue
        normals, offsets = normals[level], (normals[level] * corners[level, 0]).sum(axis=1)
        near = np.abs(points @ normals.T - offsets) < threshold  # (n, T)
        found[members[near[:, near.sum(axis=0).argmax()]]] = number
    return found


def clusters(xyz: np.ndarray, *, radius: tuple[float, float]) -> np.ndarray:
    """Number (N,) of the component of each point in the graph that joins near ones.

    Two points are joined when nearer than a radius that grows from `radius[0]` at the sensor to `radius[1]` at 30 m, as
    beams diverge; of the two ranges the mean counts.
    """
    if not len(xyz):
        return np.zeros(0, dtype=np.int64)
    _, first, cell = np.unique(np.floor(xyz / _THIN).astype(np.int64), axis=0, return_index=True, return_inverse=True)
    points = xyz[first]
    pairs = cKDTree(points).query_pairs(max(radius), output_type="ndarray")  # (E, 2)
    reach = np.linalg.norm(points[:, :2], axis=1).clip(max=_FAR) / _FAR
    allowed = radius[0] + (radius[1] - radius[0]) * reach[pairs].mean(axis=1)
    pairs = pairs[np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1) <= allowed]
    graph = coo_matrix((np.ones(len(pairs), dtype=bool), pairs.T), shape=(len(points), len(points)))
    return connected_components(graph, directed=False)[1].astype(np.int64)[cell.reshape(-1)]


def numbered(of_point: np.ndarray, least: int) -> np.ndarray:
    """Numbers (N,) counted anew from 0, in the order of the old ones; -1 for those of fewer than `least` points."""
    _, inverse, counts = np.unique(of_point, return_inverse=True, return_counts=True)
    kept = counts >= least
    new = np.where(kept, np.cumsum(kept) - 1, -1)
    return new[inverse.reshape(-1)].astype(np.int64)


def _extents(xyz: np.ndarray, of_point: np.ndarray) -> np.ndarray:
    """(S, 3) length, width and height of each segment: the smallest upright box, turned in steps of 5 degrees."""
    order = np.argsort(of_point, kind="stable")
    order = order[of_point[order] >= 0]
    if not len(order):
        return np.zeros((0, 3))
    starts = np.flatnonzero(np.diff(of_point[order], prepend=-1))
    points = xyz[order]
    turns = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])  # (2, A)
    along, across = points[:, :2] @ turns, points[:, :2] @ np.stack([-turns[1], turns[0]])  # (n, A) each
    sides = [np.maximum.reduceat(axis, starts) - np.minimum.reduceat(axis, starts) for axis in (along, across)]
    best = (sides[0] * sides[1]).argmin(axis=1)[:, None]  # (S, 1)
    flat = np.concatenate([np.take_along_axis(side, best, axis=1) for side in sides], axis=1)
    height = np.maximum.reduceat(points[:, 2], starts) - np.minimum.reduceat(points[:, 2], starts)
    return np.column_stack([flat.max(axis=1), flat.min(axis=1), height])
