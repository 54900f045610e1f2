"""Streets seen by a spinning laser scanner on a moving car: sequences of sweeps with classes, boxes and poses.

Rays are cast (trimesh with Embree) into made-up streets: slightly uneven ground, buildings and walls, poles, bollards
and bins, trees and bushes, parked and driving cars, pedestrians and cyclists. Each street has its own scanner of 16, 24
or 32 beams, 360 directions a turn, 1.8 m above the ground, on a car with random speed and rate of turn. What moves,
moves with constant velocity; sweeps are 0.5 s apart and each is taken in an instant. Ranges carry noise of 2 cm; 2 % of
the returns are lost, and more of the faint ones. Nothing is stored: a row is cast when it is read, the same every time.
Columns:
    points: (N, 4) float32: x, y, z in metres and intensity in [0, 1], in the frame of the sensor (x to the front, y to
        the left, z up). Intensity depends on the material and the angle at which the ray meets it.
    mask: (N,) uint8, the class of each point: building, car, cyclist, ground, pedestrian, pole, vegetation (0 to 6;
        walls are buildings).
    instance: (N,) int32, a number for each thing of the street, the same in all its sweeps; 0 is the ground.
    boxes: those of cars, cyclists and pedestrians with at least five returns: a list of {"centre": [x, y, z], "size":
        [length, width, height], "yaw": radians, "label": name, "velocity": [x, y] in m/s over ground, "points": how
        many returns}, in the frame of the sensor.
    pose: (4, 4) float64, sensor -> world.
    future: the three sweeps that follow, each {"points", "mask", "instance", "boxes", "pose"}; cast when looked at.
    sequence, frame: which street, and which of its four frames.

Splits train (300 streets, 1,200 rows), validation (50, 200) and test (100, 400) share no street. train-10, train-20,
train-50 and train-100 are the first of train, each row of another street, for learning from few boxes;
test-50 and test-100 are the first of test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np

from counterpoint.data.builtin._streets import CLASSES, GROUND_REFLECTS, Street, draw_street, ground_height, triangles
from counterpoint.data.packages import Package, find_package
from counterpoint.data.readers import Reader, digest
from counterpoint.data.rows import Rows

SPLITS = ("train", "validation", "test", "train-10", "train-20", "train-50", "train-100", "test-50", "test-100", "all")
NEEDS = (
    Package("trimesh", "5.2.0", "trimesh", light=True),
    Package("embreex", "4.4.0.post1", "embreex", light=True),
)
LICENCE = "made by this library; the ray-caster: trimesh (MIT) with embreex (BSD, Embree: Apache-2.0)"

STREETS = {"train": 300, "validation": 50, "test": 100}
FRAMES = 4
"""Rows of a street."""
FOLLOWING = 3
"""Sweeps in `future`."""
SECONDS = 0.5
"""Between two sweeps."""
_BEAMS = (16, 24, 32)
_DIRECTIONS = 360
_ELEVATION = (-22.0, 6.0)  # degrees
_HEIGHT, _FARTHEST = 1.8, 40.0  # metres: of the sensor, and the longest range
_NOISE, _LOST, _FAINT = 0.02, 0.02, 0.04  # metres; share; intensity at which a further third is lost
_LEAST = 5  # returns for a box
_REVISION = 2


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    for package in NEEDS:
        find_package(package)
    part, _, most = split.partition("-")
    places = [
        (name, street, frame)
        for name, count in STREETS.items()
        if part in (name, "all")
        for frame in range(FRAMES)
        for street in range(count)
    ]
    return Rows(_Sweeps(places[: int(most)] if most else places), name=f"lidar:{split}", class_names=CLASSES)


class _Sweeps(Reader):
    """Rows that are cast when they are read."""

    columns = ("points", "mask", "instance", "boxes", "pose", "future", "sequence", "frame")

    def __init__(self, places: Sequence[tuple[str, int, int]]) -> None:
        self._places = list(places)

    def __len__(self) -> int:
        return len(self._places)

    def row_id(self, index: int) -> str:
        """Split, street and frame."""
        name, street, frame = self._places[index]
        return f"{name}/{street:03d}/{frame}"

    def read(self, index: int) -> dict[str, Any]:
        """The row; its sweep is cast now."""
        name, street, frame = self._places[index]
        return {
            "id": self.row_id(index),
            **sweep(name, street, frame),
            "future": Following(name, street, frame),
            **self._named(index),
        }

    def _named(self, index: int) -> dict[str, Any]:
        name, street, frame = self._places[index]
        return {"sequence": f"{name}/{street:03d}", "frame": frame}

    def column(self, name: str) -> Iterator[Any]:
        """Values; nothing is cast for the names of sequences and the numbers of frames."""
        if name in ("sequence", "frame"):
            return (self._named(index)[name] for index in range(len(self)))
        return super().column(name)

    def identity(self) -> str:
        """Over the places, the sizes of things and the version of this module."""
        return digest(f"lidar {_REVISION}", repr(self._places))


class Following(Sequence[dict[str, Any]]):
    """The sweeps after a row's; each is cast when it is looked at."""

    def __init__(self, split: str, street: int, frame: int) -> None:
        self._first = (split, street, frame + 1)

    def __len__(self) -> int:
        return FOLLOWING

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """One sweep, or those of a slice."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -FOLLOWING <= index < FOLLOWING:
            raise IndexError(f"sweep {index} of the {FOLLOWING} that follow")
        split, street, frame = self._first
        return dict(sweep(split, street, frame + index % FOLLOWING))


@lru_cache(maxsize=64)
def _street(split: str, number: int) -> tuple[Street, int]:
    """A street and the number of beams of its scanner."""
    rng = np.random.default_rng([41203054, list(STREETS).index(split), number])
    beams = int(rng.choice(_BEAMS))
    return draw_street(rng, SECONDS * (FRAMES + FOLLOWING - 1)), beams


@lru_cache(maxsize=512)
def sweep(split: str, number: int, frame: int) -> dict[str, Any]:
    """The sweep of a street at `frame`; the last 512 of a process are kept (50 MB)."""
    street, beams = _street(split, number)
    rng = np.random.default_rng([41203054, list(STREETS).index(split), number, frame])
    time = frame * SECONDS
    x, y, heading = street.ego(time)
    cosine, sine = math.cos(heading), math.sin(heading)
    pose = np.array([[cosine, -sine, 0, x], [sine, cosine, 0, y], [0, 0, 1, _HEIGHT], [0, 0, 0, 1.0]])
    directions = _directions(beams)  # (R, 3), frame of the sensor
    ranges, owners, cosines = _cast(street, time, pose[:3, 3], directions @ pose[:3, :3].T)
    things = street.things
    reflects = np.array([*(thing.reflects for thing in things), GROUND_REFLECTS])[owners]  # -1, the ground, comes last
    classes = np.array([*(CLASSES.index(thing.label) for thing in things), CLASSES.index("ground")], np.uint8)[owners]
    intensity = reflects * (0.25 + 0.75 * cosines) + rng.normal(0.0, 0.02, len(ranges))
    lost = rng.random(len(ranges)) < _LOST + np.exp(-np.maximum(intensity, 0) / _FAINT) / 3
    ranges = ranges + rng.normal(0.0, _NOISE, len(ranges))
    kept = (ranges < _FARTHEST) & ~lost
    points = np.empty((int(kept.sum()), 4), np.float32)
    points[:, :3] = directions[kept] * ranges[kept, None]
    points[:, 3] = np.clip(intensity[kept], 0, 1)
    counts = np.bincount(owners[kept] + 1, minlength=len(things) + 1)[1:]
    boxes = [
        _box(street, place, time, (x, y, heading), int(counts[place]))
        for place in range(len(things))
        if things[place].mobile and counts[place] >= _LEAST
    ]
    instance = (owners[kept] + 1).astype(np.int32)
    return {"points": points, "mask": classes[kept], "instance": instance, "boxes": boxes, "pose": pose}


def _directions(beams: int) -> np.ndarray:
    """(beams * directions, 3) unit vectors."""
    elevation = np.radians(np.linspace(*_ELEVATION, beams))[:, None]
    azimuth = np.linspace(0, 2 * np.pi, _DIRECTIONS, endpoint=False)[None]
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth], axis=-1).reshape(
        -1, 3
    )


def _cast(
    street: Street, time: float, origin: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First hits of (R, 3) rays: ranges (R,) with inf where there is none, owners (R,), |cosines| of incidence (R,)."""
    from trimesh import Trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    corners, faces, owners = triangles(street, time)
    caster = RayMeshIntersector(Trimesh(corners, faces, process=False, validate=False))
    hit = caster.intersects_first(np.broadcast_to(origin, directions.shape), directions)  # (R,), -1: none
    first, second, third = (corners[faces[hit, corner]] for corner in range(3))  # (R, 3)
    normals = np.cross(second - first, third - first)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    towards = (normals * directions).sum(axis=1)
    safe = np.where(np.abs(towards) > 1e-9, towards, 1e-9)
    ranges = ((first - origin) * normals).sum(axis=1) / safe  # from the plane: exact, unlike the caster's float32
    missed = (hit < 0) | (np.abs(towards) <= 1e-9)
    return np.where(missed, np.inf, ranges), np.where(missed, -1, owners[hit]), np.abs(towards)


def _box(street: Street, place: int, time: float, ego: tuple[float, float, float], count: int) -> dict[str, Any]:
    """The box of a thing in the frame of the sensor."""
    thing = street.things[place]
    x, y = thing.at(time)
    high = float(ground_height(street, np.array(x), np.array(y))) + thing.size[2] / 2 - _HEIGHT
    cosine, sine = math.cos(ego[2]), math.sin(ego[2])
    yaw = thing.yaw - ego[2]

    def turned(east: float, north: float) -> list[float]:
        return [cosine * east + sine * north, cosine * north - sine * east]

    return {
        "centre": [*turned(x - ego[0], y - ego[1]), high],
        "size": list(thing.size),
        "yaw": math.atan2(math.sin(yaw), math.cos(yaw)),
        "label": thing.label,
        "velocity": turned(thing.speed * math.cos(thing.yaw), thing.speed * math.sin(thing.yaw)),
        "points": count,
    }
