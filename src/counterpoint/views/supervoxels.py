"""Class-agnostic segments of a scene without labels, and which of them are foreground: outdoors and indoors."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from counterpoint.data.arrays import read_npz
from counterpoint.data.cache import cache_folder, replacing
from counterpoint.data.readers import digest
from counterpoint.views._indoor import indoor
from counterpoint.views._outdoor import outdoor

__all__ = ["Segments", "Supervoxels"]

_REVISION = 1
"""Raised when the result changes, so that cached ones are not taken."""


class Segments(NamedTuple):
    """The segments of a scene.

    Attributes:
        of_point: (N,) int64, number of each point's segment; -1 is noise.
        foreground: (S,) of bool, one a segment.
    """

    of_point: np.ndarray
    foreground: np.ndarray

    def foreground_of(self, segment: np.ndarray) -> np.ndarray:
        """Whether each of (M,) segment numbers is foreground; noise is not."""
        known = np.append(self.foreground, False)
        return known[segment]  # -1 is the last

    @property
    def share(self) -> float:
        """Share of the points that are foreground; outdoors 5 to 30 % is usual."""
        return float(self.foreground_of(self.of_point).mean())


@dataclass(frozen=True)
class Supervoxels:
    """Over-segmentation of a scene, cached on disk by its content and these settings.

    A scene in which nothing is foreground is taken as all foreground.

    Attributes:
        kind: "outdoor" (ground planes, then clusters; foreground is what has the size of a thing) or "indoor"
            (supervoxels merged into planes; large planes are background).
        cache: whether results are kept in the cache folder.
        seed: of the draws of RANSAC.
        least: points of the smallest segment; smaller ones are noise.
        ground: distance from a ground plane that is still ground, metres.
        radius: distance that joins two points, metres, at the sensor and from 30 m on; it grows in between.
        height: of a foreground segment outdoors, metres.
        footprint: largest length and width of one, metres.
        voxel, seeds: side of a voxel and distance of the seeds indoors, metres.
        plane: area from which a planar segment indoors is background, square metres.
    """

    kind: Literal["outdoor", "indoor"] = "outdoor"
    cache: bool = True
    seed: int = 0
    least: int = 10
    ground: float = 0.2
    radius: tuple[float, float] = (0.5, 0.8)
    height: tuple[float, float] = (0.3, 4.0)
    footprint: tuple[float, float] = (12.0, 4.0)
    voxel: float = 0.05
    seeds: float = 0.5
    plane: float = 1.0

    def __post_init__(self) -> None:
        lengths = (self.ground, *self.radius, *self.height, *self.footprint, self.voxel, self.seeds, self.plane)
        if min(lengths) <= 0 or self.least < 1 or self.seeds < 2 * self.voxel:
            raise ValueError("supervoxels: lengths must be above 0, least at least 1, seeds at least two voxels")

    def __call__(self, cloud: Mapping[str, np.ndarray]) -> Segments:
        """A cloud as `read_points` gives it -> its segments. The same every time."""
        if not self.cache:
            return self._find(cloud)
        colour = cloud["colour"] if self.kind == "indoor" and "colour" in cloud else cloud["xyz"][:0]
        key = digest(repr(self), str(_REVISION), cloud["xyz"].tobytes(), colour.tobytes())
        path = cache_folder("supervoxels", key[:2]) / f"{key[:32]}.npz"
        if path.is_file():
            stored = read_npz(path, len(cloud["xyz"]))
            return Segments(stored["of_point"].astype(np.int64), stored["foreground"])
        found = self._find(cloud)
        content = io.BytesIO()
        np.savez_compressed(content, of_point=found.of_point.astype(np.int32), foreground=found.foreground)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getvalue())
        return found

    def _find(self, cloud: Mapping[str, np.ndarray]) -> Segments:
        xyz = cloud["xyz"].astype(np.float64)
        if self.kind == "outdoor":
            of_point, foreground = outdoor(
                xyz,
                seed=self.seed,
                ground=self.ground,
                radius=self.radius,
                height=self.height,
                footprint=self.footprint,
                least=self.least,
            )
        else:
            of_point, foreground = indoor(
                xyz, cloud.get("colour"), voxel=self.voxel, seeds=self.seeds, plane=self.plane, least=self.least
            )
        if not foreground.any():
            foreground = np.ones_like(foreground)
        return Segments(of_point, foreground)
