"""Segments of a room: supervoxels grown from seeds, merged where they continue each other's plane."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from counterpoint.views._outdoor import numbered

__all__ = ["grow", "indoor", "voxels"]

_PLACE, _COLOUR, _NORMAL = 0.4, 0.2, 1.0
"""Weights of the three parts of the distance to a seed."""
_NEIGHBOURS = 16
_BENT = math.cos(math.radians(10))
"""Smallest cosine of the normals of two supervoxels of one plane."""
_STEP = 0.05
"""Metres: largest offset of two supervoxels of one plane, and largest thickness of a plane."""


class Voxels(NamedTuple):
    """Occupied voxels: mean place (V, 3), colour (V, 3) and unit normal (V, 3); edges (E, 2); voxel of each point (N,).

    Edges join each pair of the 26-neighbourhood once.
    """

    place: np.ndarray
    colour: np.ndarray
    normal: np.ndarray
    edges: np.ndarray
    of_point: np.ndarray


def indoor(
    xyz: np.ndarray, colour: np.ndarray | None, *, voxel: float, seeds: float, plane: float, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Segment of each point (N,), -1 for noise, and whether each segment is foreground (S,); see `Supervoxels`."""
    found = voxels(xyz, colour, voxel)
    label = grow(found, voxel=voxel, seeds=seeds)
    label = _merged(found, label)
    of_point = numbered(label[found.of_point], least)
    segments = int(of_point.max(initial=-1)) + 1
    of_voxel = np.full(len(label), -1)
    of_voxel[found.of_point] = of_point  # all points of a voxel share their segment
    area = np.bincount(of_voxel[of_voxel >= 0], minlength=segments) * voxel**2
    flat = np.array([_thickness(found.place[of_voxel == segment]) < _STEP for segment in range(segments)], dtype=bool)
    return of_point, ~(flat & (area > plane))


def voxels(xyz: np.ndarray, colour: np.ndarray | None, side: float) -> Voxels:
    """The occupied voxels of a cloud; normals are those of the plane through the 16 nearest voxels."""
    cells, of_point = np.unique(np.floor(xyz / side).astype(np.int64), axis=0, return_inverse=True)
    of_point = of_point.reshape(-1)
    counts = np.bincount(of_point)[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(of_point, weights=column) for column in values.T], axis=1) / counts

    place = mean(xyz)
    shades = np.zeros_like(place) if colour is None else mean(colour.astype(np.float64))
    _, near = cKDTree(place).query(place, k=min(_NEIGHBOURS, len(place)))
    around = place[near.reshape(len(place), -1)]  # (V, 16, 3)
    around = around - around.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("vki,vkj->vij", around, around))
    edges = cKDTree(cells).query_pairs(1.75, output_type="ndarray")  # the diagonal of a cube is 1.73
    return Voxels(place, shades, axes[:, :, 0], edges[np.lexsort((edges[:, 1], edges[:, 0]))], of_point)


def grow(found: Voxels, *, voxel: float, seeds: float) -> np.ndarray:
    """Label (V,) of each voxel: regions grow from seeds, and a voxel goes to the nearest region that touches it.

    Distance to a seed: sqrt(0.4 (place / seeds)^2 + 0.2 colour^2 + (1 - |n . n'|)^2) (Papon et al., CVPR 2013, with
    the weights of this project). What no seed reaches becomes regions of its own, one a component.
    """
    cell = np.floor(found.place / seeds).astype(np.int64)
    to_middle = np.linalg.norm(found.place - (cell + 0.5) * seeds, axis=1)
    order = np.lexsort((to_middle, *cell.T))
    first = np.flatnonzero(np.diff(cell[order], axis=0, prepend=cell[order[:1]] - 1).any(axis=1))
    seed = order[first]  # the voxel nearest to the middle of every occupied seed cell
    label, distance = np.full(len(cell), -1), np.full(len(cell), np.inf)
    label[seed], distance[seed] = np.arange(len(seed)), 0.0
    source, target = np.concatenate([found.edges, found.edges[:, ::-1]]).T
    for _ in range(math.ceil(2 * seeds / voxel)):
        offered = label[source]
        useful = (offered >= 0) & (offered != label[target])
        wanted, region = target[useful], offered[useful]
        centre = seed[region]
        cost = np.sqrt(
            _PLACE * ((found.place[wanted] - found.place[centre]) ** 2).sum(axis=1) / seeds**2
            + _COLOUR * ((found.colour[wanted] - found.colour[centre]) ** 2).sum(axis=1)
            + _NORMAL * (1 - np.abs((found.normal[wanted] * found.normal[centre]).sum(axis=1))) ** 2
        )
        best = np.lexsort((region, cost, wanted))
        best = best[np.flatnonzero(np.diff(wanted[best], prepend=-1))]  # the cheapest offer to each voxel
        better = best[cost[best] < distance[wanted[best]]]
        if not len(better):
            break
        label[wanted[better]], distance[wanted[better]] = region[better], cost[better]
    return _rest(label, found.edges)


def _rest(label: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Labels for voxels without one: a new one for each component of them."""
    left = label < 0
    if not left.any():
        return label
    inner = edges[left[edges].all(axis=1)]
    return np.where(left, label.max(initial=-1) + 1 + _components(inner, len(label)), label)


def _components(edges: np.ndarray, count: int) -> np.ndarray:
    graph = coo_matrix((np.ones(len(edges), dtype=bool), edges.T), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _merged(found: Voxels, label: np.ndarray) -> np.ndarray:
    """Labels after neighbours with the same plane are joined."""
    _, label = np.unique(label, return_inverse=True)
    label = label.reshape(-1)
    count = int(label.max()) + 1
    sizes = np.bincount(label)
    centre = np.stack([np.bincount(label, weights=axis) for axis in found.place.T], axis=1) / sizes[:, None]
    products = np.einsum("vi,vj->vij", found.normal, found.normal)  # the sign of a normal does not matter
    sums = np.stack([np.bincount(label, weights=products[:, i, j]) for i in range(3) for j in range(3)], axis=1)
    normal = np.linalg.eigh(sums.reshape(count, 3, 3))[1][:, :, 2]
    pairs = label[found.edges]
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    first, second = pairs.T
    straight = np.abs((normal[first] * normal[second]).sum(axis=1)) > _BENT
    between = centre[first] - centre[second]
    offsets = [np.abs((normal[side] * between).sum(axis=1)) for side in (first, second)]
    return _components(pairs[straight & (np.maximum(*offsets) < _STEP)], count)[label]


def _thickness(place: np.ndarray) -> float:
    """Root mean square distance from the best plane, metres."""
    if len(place) < 3:
        return 0.0
    return float(np.linalg.svd(place - place.mean(axis=0), compute_uv=False)[-1] / math.sqrt(len(place)))
