"""Streets of the built-in set `lidar`: what stands where, what moves how, and the triangles that rays meet.

The world has x along the street and y to its left; the ground lies near z = 0. Cars drive on the right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["CLASSES", "GROUND_REFLECTS", "REACH", "Street", "Thing", "draw_street", "ground_height", "triangles"]

CLASSES = ("building", "car", "cyclist", "ground", "pedestrian", "pole", "vegetation")
REACH = 70.0
"""The street runs from -REACH to REACH metres."""
_LANE, _WIDE, _CELL = 1.75, 28.0, 4.0  # metres: lane's middle, half the width of the ground, side of its squares
_EGO = (4.4, 1.9)  # length and width of the car that carries the sensor
GROUND_REFLECTS = 0.2
_REFLECTS = {"building": 0.5, "pole": 0.75, "vegetation": 0.35}

Part = tuple[str, tuple[float, float, float], tuple[float, float, float]]
"""(unit shape, its extents, its centre), in a frame at the foot of the thing with x to its front."""


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground or moves over it with constant velocity.

    Attributes:
        label: one of CLASSES.
        size: length, width, height of the box around it, metres.
        x, y, yaw: where it stands at time 0, and which way its front points, radians.
        speed: metres a second, towards its front.
        reflects: share of the light that comes back from it at right angles.
        parts: what it is made of.
    """

    label: str
    size: tuple[float, float, float]
    x: float
    y: float
    yaw: float
    speed: float
    reflects: float
    parts: tuple[Part, ...]

    @property
    def mobile(self) -> bool:
        """Whether it could drive or walk away; then it has a box."""
        return self.label in ("car", "cyclist", "pedestrian")

    def at(self, time: float) -> tuple[float, float]:
        """Where it is after `time` seconds."""
        way = self.speed * time
        return self.x + way * math.cos(self.yaw), self.y + way * math.sin(self.yaw)


@dataclass(frozen=True)
class Street:
    """A street, its things, and how the sensor moves through it.

    Attributes:
        things: buildings, poles, vegetation, cars, pedestrians, cyclists.
        waves: (K, 4) of the ground: amplitude in metres, wave numbers along x and y, phase.
        speed, turn: of the sensor, metres and radians a second.
        start: x, y and heading of the sensor at time 0.
    """

    things: tuple[Thing, ...]
    waves: np.ndarray
    speed: float
    turn: float
    start: tuple[float, float, float]

    def ego(self, time: float) -> tuple[float, float, float]:
        """x, y and heading of the sensor after `time` seconds: an arc."""
        x, y, heading = self.start
        turned, way = self.turn * time, self.speed * time
        chord = way * np.sinc(turned / (2 * math.pi))
        return x + chord * math.cos(heading + turned / 2), y + chord * math.sin(heading + turned / 2), heading + turned


def draw_street(rng: np.random.Generator, seconds: float) -> Street:
    """A random street in which nothing runs into anything for `seconds` seconds."""
    speed = float(rng.uniform(0.0, 10.0))
    start = (-speed * seconds / 2, -_LANE, float(rng.normal(0.0, 0.03)))
    waves = np.stack(
        [rng.uniform(0.01, 0.05, 4), rng.normal(0, 0.2, 4), rng.normal(0, 0.2, 4), rng.uniform(0, 2 * np.pi, 4)], axis=1
    )
    street = Street((), waves, speed, float(rng.normal(0.0, 0.06)), start)
    edge = float(rng.uniform(5.0, 7.0))  # of the road; the pavement is three metres wide
    times = np.linspace(0.0, seconds, 7)
    things: list[Thing] = []
    tracks = [np.array([street.ego(time)[:2] for time in times])]  # (7, 2) each
    halves = [_half(_EGO, start[2])]  # (2,) each
    for thing in (*_standing(rng, edge), *_road_users(rng, edge)):
        track, half = np.array([thing.at(time) for time in times]), _half(thing.size, thing.yaw)
        # boxes along the axes that come nearer than 0.4 m at one of the times
        near = np.abs(np.stack(tracks) - track) < (np.stack(halves) + half + 0.4)[:, None]  # (K, 7, 2)
        if not thing.mobile or not near.all(axis=2).any():
            things.append(thing)
            tracks.append(track)
            halves.append(half)
    return Street(tuple(things), waves, street.speed, street.turn, start)


def _half(size: tuple[float, ...], yaw: float) -> np.ndarray:
    """(2,) half the extents along x and y of a turned rectangle."""
    cosine, sine = abs(math.cos(yaw)), abs(math.sin(yaw))
    return np.array([cosine * size[0] + sine * size[1], sine * size[0] + cosine * size[1]]) / 2


def _standing(rng: np.random.Generator, edge: float) -> Iterator[Thing]:
    """Buildings and walls behind the pavements; poles, trees, posts and bushes on them."""
    for side in (-1, 1):
        x = -REACH
        while x < REACH:
            length = float(rng.uniform(6, 16))
            if rng.random() < 0.8:
                wall = rng.random() < 0.25
                deep, high = (0.3, rng.uniform(1.0, 2.2)) if wall else (rng.uniform(5, 9), rng.uniform(4, 10))
                y = side * (edge + 3.0 + rng.uniform(0, 2) + deep / 2)
                size = (length, float(deep), float(high))
                yield _block("building", size, x + length / 2, float(y), _REFLECTS["building"] * rng.uniform(0.7, 1.4))
            x += length + (float(rng.uniform(0.5, 5)) if rng.random() < 0.5 else 0.0)
        for x in np.arange(-REACH, REACH, 7.0):
            kind = rng.random()
            place = (float(x + rng.uniform(-2, 2)), side * (edge + float(rng.uniform(0.3, 0.8))))
            if kind < 0.25:
                yield _pole(rng, *place)
            elif kind < 0.45:
                yield _tree(rng, *place)
            elif kind < 0.65:
                yield _post(rng, *place)
            elif kind < 0.8:
                yield _bush(rng, *place)


def _block(label: str, size: tuple[float, float, float], x: float, y: float, reflects: float) -> Thing:
    # half a metre into the ground: no gap below where the ground is low
    part: Part = ("box", (size[0], size[1], size[2] + 0.5), (0.0, 0.0, size[2] / 2 - 0.25))
    return Thing(label, size, x, y, 0.0, 0.0, reflects, (part,))


def _pole(rng: np.random.Generator, x: float, y: float) -> Thing:
    wide, high = float(rng.uniform(0.15, 0.3)), float(rng.uniform(3, 7))
    part: Part = ("cylinder", (wide, wide, high + 0.5), (0.0, 0.0, high / 2 - 0.25))
    return Thing("pole", (wide, wide, high), x, y, 0.0, 0.0, _REFLECTS["pole"], (part,))


def _post(rng: np.random.Generator, x: float, y: float) -> Thing:
    """A bollard, a bin, a hydrant: of the size of a pedestrian or smaller."""
    wide, high = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.8, 1.9))
    part: Part = ("cylinder", (wide, wide, high + 0.5), (0.0, 0.0, high / 2 - 0.25))
    return Thing("pole", (wide, wide, high), x, y, 0.0, 0.0, float(rng.uniform(0.2, 0.8)), (part,))


def _bush(rng: np.random.Generator, x: float, y: float) -> Thing:
    wide, deep, high = (float(value) for value in rng.uniform((0.6, 0.5, 0.7), (2.2, 1.0, 1.7)))
    part: Part = ("ball", (wide, deep, 1.4 * high), (0.0, 0.0, 0.3 * high))
    return Thing("vegetation", (wide, deep, high), x, y, 0.0, 0.0, _REFLECTS["vegetation"], (part,))


def _tree(rng: np.random.Generator, x: float, y: float) -> Thing:
    trunk, wide, stem = float(rng.uniform(0.25, 0.5)), float(rng.uniform(2, 3.6)), float(rng.uniform(1.8, 2.6))
    crown = wide * float(rng.uniform(0.8, 1.3))
    parts: tuple[Part, ...] = (
        ("cylinder", (trunk, trunk, stem + 1.0), (0.0, 0.0, stem / 2)),
        ("ball", (wide, wide, crown), (0.0, 0.0, stem + crown / 2)),
    )
    return Thing("vegetation", (wide, wide, stem + crown), x, y, 0.0, 0.0, _REFLECTS["vegetation"], parts)


def _road_users(rng: np.random.Generator, edge: float) -> Iterator[Thing]:
    """Parked and driving cars, cyclists at the edge of the road, pedestrians on the pavements and crossing."""
    for side in (-1, 1):
        back = 0.0 if side < 0 else math.pi
        for x in np.arange(-45.0, 45.0, 6.5):
            if rng.random() < 0.3:
                yaw = back + math.pi * (rng.random() < 0.15) + rng.normal(0, 0.03)
                yield _car(rng, x + rng.uniform(-0.7, 0.7), side * (edge - 1.1), yaw, 0.0)
    for _ in range(rng.integers(3, 8)):
        side = int(rng.choice((-1, 1)))
        yaw = (0.0 if side < 0 else math.pi) + rng.normal(0, 0.02)
        yield _car(rng, rng.uniform(-45, 45), side * _LANE, yaw, rng.uniform(3, 12))
    for _ in range(rng.integers(4, 10)):
        side = int(rng.choice((-1, 1)))
        yaw = (0.0 if side < 0 else math.pi) + rng.normal(0, 0.05)
        yield _cyclist(rng, rng.uniform(-40, 40), side * 3.3, yaw, rng.uniform(2.5, 6))
    for _ in range(rng.integers(5, 12)):
        side, crosses = int(rng.choice((-1, 1))), rng.random() < 0.25
        y = side * (edge + (rng.uniform(-1.5, 0.0) if crosses else rng.uniform(1.2, 2.6)))
        yaw = (-side * math.pi / 2 if crosses else math.pi * rng.integers(2)) + rng.normal(0, 0.15)
        yield _pedestrian(rng, rng.uniform(-35, 35), y, yaw, 0.0 if rng.random() < 0.25 else rng.uniform(0.8, 1.8))


def _car(rng: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Thing:
    long, wide, high = float(rng.uniform(3.7, 4.9)), float(rng.uniform(1.7, 2.0)), float(rng.uniform(1.4, 1.8))
    parts: tuple[Part, ...] = (
        ("box", (long, wide, 0.42 * high), (0.0, 0.0, 0.33 * high)),
        ("box", (0.55 * long, 0.86 * wide, 0.46 * high), (-0.1 * long, 0.0, 0.77 * high)),
    )
    return Thing("car", (long, wide, high), float(x), y, float(yaw), float(speed), float(rng.uniform(0.2, 0.9)), parts)


def _cyclist(rng: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Thing:
    long, wide, high = float(rng.uniform(1.6, 1.9)), float(rng.uniform(0.5, 0.7)), float(rng.uniform(1.6, 1.9))
    parts: tuple[Part, ...] = (
        ("box", (long, 0.12, 0.55 * high), (0.0, 0.0, 0.3 * high)),
        ("cylinder", (0.45, wide, 0.42 * high), (-0.1, 0.0, 0.66 * high)),
        ("ball", (0.26, 0.26, 0.15 * high), (0.0, 0.0, 0.92 * high)),
    )
    reflects = float(rng.uniform(0.3, 0.7))
    return Thing("cyclist", (long, wide, high), float(x), y, float(yaw), float(speed), reflects, parts)


def _pedestrian(rng: np.random.Generator, x: float, y: float, yaw: float, speed: float) -> Thing:
    long, wide, high = float(rng.uniform(0.4, 0.7)), float(rng.uniform(0.5, 0.7)), float(rng.uniform(1.5, 1.9))
    parts: tuple[Part, ...] = (
        ("cylinder", (long, wide, 0.84 * high), (0.0, 0.0, 0.42 * high)),
        ("ball", (0.25, 0.25, 0.16 * high), (0.0, 0.0, 0.92 * high)),
    )
    reflects = float(rng.uniform(0.2, 0.6))
    return Thing("pedestrian", (long, wide, high), float(x), float(y), float(yaw), float(speed), reflects, parts)


def ground_height(street: Street, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height of the ground, metres, at most 0.2: a few long waves."""
    amplitude, along, across, phase = (column[:, None] for column in street.waves.T)
    flat = np.stack([np.ravel(x), np.ravel(y)])  # (2, N)
    waves = amplitude * np.sin(along * flat[:1] + across * flat[1:] + phase)  # (K, N)
    return np.asarray(waves.sum(axis=0).reshape(np.shape(x)))


@lru_cache(maxsize=1)
def _shapes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> corners (V, 3) within half a unit of the middle, triangles (F, 3)."""
    from trimesh import creation

    meshes = {
        "box": creation.box(),
        "cylinder": creation.cylinder(radius=0.5, height=1.0, sections=10),
        "ball": creation.icosphere(subdivisions=1, radius=0.5),
    }
    return {name: (np.asarray(mesh.vertices), np.asarray(mesh.faces)) for name, mesh in meshes.items()}


def triangles(street: Street, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The street at one moment.

    Returns:
        Corners (V, 3), triangles (F, 3) of them, and for each triangle (F,) the place of its thing in
        `street.things`; -1 is the ground.
    """
    corners, faces = _ground(street)
    all_corners, all_faces, owners = [corners], [faces], [np.full(len(faces), -1)]
    count = len(corners)
    for place, thing in enumerate(street.things):
        x, y = thing.at(time)
        foot = np.array([x, y, float(ground_height(street, np.array(x), np.array(y)))])
        cosine, sine = math.cos(thing.yaw), math.sin(thing.yaw)
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
        for shape, extents, centre in thing.parts:
            unit, faces = _shapes()[shape]
            all_corners.append((unit * extents + centre) @ turn.T + foot)
            all_faces.append(faces + count)
            owners.append(np.full(len(faces), place))
            count += len(unit)
    return np.concatenate(all_corners), np.concatenate(all_faces), np.concatenate(owners)


def _ground(street: Street) -> tuple[np.ndarray, np.ndarray]:
    """Corners and triangles of the ground: squares of _CELL metres, two triangles each."""
    along, across = np.arange(-REACH, REACH + 0.1, _CELL), np.arange(-_WIDE, _WIDE + 0.1, _CELL)
    x, y = np.meshgrid(along, across, indexing="ij")
    corners = np.stack([x, y, ground_height(street, x, y)], axis=-1).reshape(-1, 3)
    step = len(across)
    first = (np.arange(len(along) - 1)[:, None] * step + np.arange(step - 1)).reshape(-1)
    lower = np.stack([first, first + step, first + 1], axis=1)
    upper = np.stack([first + 1, first + step, first + step + 1], axis=1)
    return corners, np.concatenate([lower, upper])
