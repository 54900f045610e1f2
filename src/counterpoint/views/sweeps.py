"""A sweep of a laser scanner and the sweeps that follow, as rays in the frame of the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow, Row
from counterpoint.data.scans import MAX_POINTS, read_points
from counterpoint.views._outdoor import ground_planes
from counterpoint.views.ego_motion import actions_between, read_pose
from counterpoint.views.points import as_tensors, described, turned

__all__ = ["SweepViews", "following", "horizon_at", "returns_above_ground", "steps_ahead", "turned_pose"]

Corner = tuple[float, float, float]


def following(row: Row, most: int) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """The next sweeps of a row, at most so many, and the poses (n + 1, 4, 4) of the row and of them, sensor -> row.

    Raises:
        BadRow: no sweep follows, or a pose is none.
    """
    sweeps: Sequence[Mapping[str, Any]] = row["future"]
    if most and not len(sweeps):
        raise BadRow("no sweep follows: `future` is empty")
    chosen = [sweeps[number] for number in range(min(most, len(sweeps)))]
    poses = np.stack([read_pose(found["pose"]) for found in (row, *chosen)])
    return chosen, np.linalg.inv(poses[0]) @ poses


def returns_above_ground(
    value: Any,
    pose: np.ndarray,
    *,
    low: Corner,
    high: Corner,
    nearest: float,
    ground: float,
    rng: np.random.Generator,
    max_points: int = MAX_POINTS,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Places (M, 3) in the row's frame of the returns of a sweep that are not on the ground, and intensities (M,).

    Args:
        value: what `read_points` takes.
        pose: (4, 4), the sweep's frame -> the row's.
        low, high: corners of the box; what lies outside, in the row's frame, is left out.
        nearest: metres; returns nearer to the sensor are left out.
        ground: distance from a ground plane (RANSAC in eight sectors) that is still ground, metres; 0 keeps the ground.
        rng: of the planes that are tried.
        max_points: see `read_points`.
    """
    cloud = read_points(value, max_points=max_points)
    xyz = cloud["xyz"].astype(np.float64)
    kept = np.linalg.norm(xyz, axis=1) > nearest
    if ground:
        kept &= ground_planes(xyz, threshold=ground, rng=rng) < 0
    places = xyz @ pose[:3, :3].T + pose[:3, 3]
    kept &= ((places > low) & (places < high)).all(axis=1)
    return places[kept], cloud["intensity"][kept] if "intensity" in cloud else None


def turned_pose(pose: np.ndarray, angle: float) -> np.ndarray:
    """A pose (..., 4, 4) between frames that are both turned about z by `angle` radians."""
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return turn @ pose @ turn.T


@dataclass(frozen=True)
class SweepViews:
    """One sweep as input; its rays and those of the following sweeps as targets, in its own frame.

    Attributes:
        horizon: sweeps that are looked ahead, F; 0 looks at the row's own alone and reads no `future`.
        rays: of each sweep, R, drawn from its returns above the ground.
        rotation: the whole scene is turned about z by up to so many degrees.
        ground: distance from a ground plane that is still ground, metres; 0 keeps the ground among the targets.
        nearest: metres; nearer returns are no targets.
        low, high: corners of the box in which returns are targets, metres; the system's own.
        features: channels of the points beside their place, see `described`.
        points: points of the input at most, drawn.
        max_points: files with more are refused.

    Returns of a call: `points`: the cloud; `actions` (F, 3); `following` (): how many sweeps really follow; `draw` (),
    a number in [0, 1) that picks one of them; and for each of the F + 1 sweeps: `origins` (F + 1, 3) of its rays,
    `directions` (F + 1, R, 3) unit vectors, `ranges` (F + 1, R) metres, 0 where there is no ray, `intensity` and `lit`
    (F + 1, R), whether it is known, and `offsets` (F + 1, R) in [0, 1) for the places of samples.
    """

    horizon: int = 2
    rays: int = 512
    rotation: float = 0.0
    ground: float = 0.2
    nearest: float = 1.0
    low: Corner = (-20.0, -20.0, -2.4)
    high: Corner = (20.0, 20.0, 4.0)
    features: tuple[str, ...] = ()
    points: int = 200_000
    max_points: int = MAX_POINTS

    def __post_init__(self) -> None:
        if self.horizon < 0 or self.rays < 1 or self.points < 1:
            raise ValueError("horizon must be at least 0, rays and points at least 1")
        if min(self.ground, self.nearest, self.rotation) < 0:
            raise ValueError("ground, nearest and rotation must be at least 0")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low must lie below high in x, y and z; got {self.low} and {self.high}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> its sample."""
        angle = math.radians(self.rotation) * (2 * float(rng.random()) - 1)
        sample: dict[str, Any] = {"draw": np.float32(rng.random())}
        cloud = described(row, self.features, max_points=self.max_points)
        kept = np.sort(rng.permutation(len(cloud["xyz"]))[: self.points])
        xyz = turned(cloud["xyz"][kept], angle)
        sample["points"] = as_tensors({"xyz": xyz, "features": cloud["features"][kept]})
        sweeps, poses = following(row, self.horizon) if self.horizon else ([], np.eye(4)[None])
        poses = turned_pose(poses, angle)
        actions = np.zeros((self.horizon, 3), np.float32)
        actions[: len(sweeps)] = actions_between(poses)
        sample |= {"actions": torch.from_numpy(actions), "following": torch.tensor(len(sweeps))}
        targets = [
            self._rays(found["points"], pose, angle, rng) for found, pose in zip((row, *sweeps), poses, strict=True)
        ]
        targets += [_no_rays(self.rays)] * (self.horizon - len(sweeps))
        stacked = {name: np.stack([target[name] for target in targets]).astype(np.float32) for name in targets[0]}
        return {**sample, **as_tensors(stacked)}

    def _rays(self, value: Any, pose: np.ndarray, angle: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Rays of one sweep: those of returns, then empty ones."""
        # The box and the ground belong to the frame before the scene was turned.
        places, intensity = returns_above_ground(
            value,
            turned_pose(pose, -angle),
            low=self.low,
            high=self.high,
            nearest=self.nearest,
            ground=self.ground,
            rng=rng,
            max_points=self.max_points,
        )
        chosen = rng.permutation(len(places))[: self.rays]
        rays = _no_rays(self.rays)
        rays["offsets"] = rng.random(self.rays)
        rays["origins"] = pose[:3, 3]
        way = turned(places[chosen], angle) - pose[:3, 3]  # (M, 3)
        ranges = np.linalg.norm(way, axis=1)
        count = len(chosen)
        rays["ranges"][:count] = ranges
        rays["directions"][:count] = way / np.maximum(ranges, 1e-6)[:, None]
        if intensity is not None:
            rays["intensity"][:count], rays["lit"][:count] = intensity[chosen], 1.0
        return rays


def _no_rays(count: int) -> dict[str, np.ndarray]:
    """Rays without a return, forwards from 0."""
    empty = {name: np.zeros(count) for name in ("ranges", "intensity", "lit", "offsets")}
    return {"origins": np.zeros(3), "directions": np.tile([1.0, 0.0, 0.0], (count, 1)), **empty}


def horizon_at(progress: float, longest: int) -> int:
    """Sweeps that are looked ahead: from 1 to `longest`, in equal parts of the training."""
    return min(longest, 1 + int(progress * longest))


def steps_ahead(draw: Tensor, horizon: Tensor) -> Tensor:
    """Which sweep (B,) a number in [0, 1) picks among the next `horizon` (B,): P(k) ~ 2^-k for k = 1 .. horizon."""
    total = 1 - 0.5 ** horizon.to(draw.dtype)
    return torch.ceil(-torch.log2(1 - draw * total)).long().clamp(min=1).minimum(horizon)
