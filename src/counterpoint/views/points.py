"""Views of a point cloud: turned, scaled, mirrored, cropped and thinned, each point remembering which it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from counterpoint.data import BadRow, Row
from counterpoint.data.scans import MAX_POINTS, Cloud, read_points
from counterpoint.views.supervoxels import Supervoxels

__all__ = ["PointCloud", "PointViews", "as_tensors", "collate_clouds", "cuboid", "described", "round_robin", "turned"]

Range = tuple[float, float]
Origin = Literal["sensor", "middle"]
_ATTEMPTS = 20
"""Boxes that are tried until one holds enough points."""


def described(row: Row, features: Sequence[str], *, origin: Origin = "sensor", max_points: int = MAX_POINTS) -> Cloud:
    """A row's points as `read_points` has them, and `features` (N, F) float32 in the order of the names.

    Args:
        row: with `points`.
        features: "intensity" (one channel), "colour" (three).
        origin: "sensor" leaves places as they are; "middle" moves the middle of the cloud to x = y = 0 and its lowest
            point to z = 0, and changes `origin` of the cloud accordingly.
        max_points: see `read_points`.

    Raises:
        BadRow: no cloud, or one without a channel that is wanted.
    """
    cloud = read_points(row["points"], max_points=max_points)
    missing = [name for name in features if name not in cloud]
    if missing:
        raise BadRow(f"its points have no {missing[0]}, which the encoder's name asks for (features={missing[0]})")
    columns = [cloud[name].reshape(len(cloud["xyz"]), -1) for name in features]
    cloud["features"] = np.concatenate([*columns, np.empty((len(cloud["xyz"]), 0), dtype=np.float32)], axis=1)
    if origin == "middle":
        low, high = cloud["xyz"].min(axis=0), cloud["xyz"].max(axis=0)
        middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], dtype=np.float32)
        cloud["origin"] = cloud.get("origin", np.zeros(3)) + middle
        cloud["xyz"] = cloud["xyz"] - middle
    return cloud


def as_tensors(cloud: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays of one row a point as tensors, in the form that `collate_clouds` pads."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in cloud.items()}


def collate_clouds(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples -> batch. A value that is a mapping of tensors is a cloud: padded with 0 to the longest of the batch.

    A padded cloud has tensors (B, N, ...) and `valid` (B, N) of bool, False at padding. Other values are stacked.

    Raises:
        ValueError: the tensors of a cloud differ in length.
    """
    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        batch[name] = _padded(name, values) if isinstance(values[0], Mapping) else default_collate(values)
    return batch


def _padded(name: str, clouds: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    counts = [len(cloud["xyz"]) for cloud in clouds]
    for cloud, count in zip(clouds, counts, strict=True):
        wrong = next((part for part, value in cloud.items() if len(value) != count), None)
        if wrong is not None:
            raise ValueError(f"{name}: {wrong} has {len(cloud[wrong])} rows, the cloud {count} points")
    padded = {
        part: torch.nn.utils.rnn.pad_sequence([cloud[part] for cloud in clouds], batch_first=True) for part in clouds[0]
    }
    valid = torch.arange(max(counts)) < torch.tensor(counts)[:, None]  # (B, N)
    return {**padded, "valid": valid}


def turned(
    xyz: np.ndarray, angle: float, *, scale: float = 1.0, flips: tuple[bool, bool] = (False, False)
) -> np.ndarray:
    """Places (N, 3) mirrored in x and in y, turned about z by `angle` (radians, x towards y) and scaled."""
    cosine, sine = math.cos(angle), math.sin(angle)
    signs = np.array([-1.0 if flip else 1.0 for flip in flips] + [1.0])
    matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]) * signs  # columns are mirrored
    return (xyz @ (scale * matrix).T.astype(xyz.dtype)).astype(xyz.dtype)


def cuboid(xyz: np.ndarray, share: Range, aspect: float, least: int, drawn: np.ndarray) -> np.ndarray:
    """Mask (N,) of a random upright box over all heights, around a random point.

    Args:
        xyz: (N, 3).
        share: range of its sides as shares of the cloud's extent in x and in y.
        aspect: the shorter share is at least this times the longer.
        least: points that it must hold; where no attempt gives so many, the whole cloud is kept.
        drawn: (attempts, 3) numbers in [0, 1): centre, and the two shares.
    """
    plane, extent = xyz[:, :2], np.ptp(xyz[:, :2], axis=0)
    for centre, *sides in drawn.tolist():
        first = share[0] + (share[1] - share[0]) * sides[0]
        lowest = max(share[0], first * aspect)
        second = lowest + (min(share[1], first / aspect) - lowest) * sides[1]
        middle = plane[int(centre * len(plane))]
        kept = (np.abs(plane - middle) <= np.array([first, second]) * extent / 2).all(axis=1)
        if kept.sum() >= least:
            return kept
    return np.ones(len(xyz), dtype=bool)


def round_robin(segment: np.ndarray, most: int, order: np.ndarray) -> np.ndarray:
    """At most `most` positions, the same number from every segment as long as it has points.

    Args:
        segment: (N,) segment of each point; negative ones are never taken.
        most: positions.
        order: (N,) a permutation: of a segment the points that come first in it are taken.

    Returns:
        (M,) positions.
    """
    order = order[segment[order] >= 0]
    by_segment = order[np.argsort(segment[order], kind="stable")]  # segment after segment, shuffled inside
    _, starts, counts = np.unique(segment[by_segment], return_index=True, return_counts=True)
    turn = np.arange(len(by_segment)) - np.repeat(starts, counts)  # which of its segment's points each is
    return by_segment[np.argsort(turn, kind="stable")[:most]]


@dataclass(frozen=True)
class PointCloud:
    """A row's points without any draw, for inference: {"points": {"xyz": (N, 3), "features": (N, F)}}.

    Attributes:
        features: channels beside the place, see `described`.
        points: clouds with more are thinned evenly, by their order in the file, to so many.
        origin: "sensor", or "middle" for clouds that do not have a sensor at 0, see `described`.
        max_points: files with more are refused.
    """

    features: tuple[str, ...] = ()
    points: int = 200_000
    origin: Origin = "sensor"
    max_points: int = MAX_POINTS

    def __call__(self, row: Row) -> dict[str, Any]:
        """One row -> its cloud."""
        cloud = described(row, self.features, origin=self.origin, max_points=self.max_points)
        count = len(cloud["xyz"])
        kept = np.linspace(0, count - 1, self.points).round().astype(int) if count > self.points else slice(None)
        return {"points": as_tensors({name: cloud[name][kept] for name in ("xyz", "features")})}


@dataclass(frozen=True)
class PointViews:
    """Two views of a cloud whose points know which point and which segment they were.

    Attributes:
        rotation: largest angle about z in degrees, drawn from [-rotation, rotation].
        scale: range of the factor of all places.
        flip: probability of mirroring x, and of mirroring y.
        crop: range of the sides of the upright box that is kept, as shares of the cloud's extent; (1, 1) keeps all.
        aspect: the shorter side of the box is at least this share of the longer.
        least: points the box must hold, else the whole cloud is kept.
        drop: share of the points that is left out.
        jitter: standard deviation of the noise on every coordinate, metres; cut at four of it.
        points: of a view, at most; drawn from what is left.
        picks: points of a view that are contrasted.
        sampling: "segments" picks the same number from every segment of the view (noise aside), "matched" picks points
            that both views have, in the same order.
        supervoxels: the over-segmentation; its result is cached.
        features, origin, max_points: see `PointCloud`.

    Returns of a call: for each of `first` and `second`: the cloud {"xyz": (N, 3), "features": (N, F), "source": (N,)
    position in the row's cloud}; `first_picks` (picks,) positions in it, 0 where there are no more; `first_segment`
    (picks,) number of the segment in the row, -1 where there are no more; `first_source` (picks,) likewise; and
    `first_foreground` (picks,) of bool. And `foreground_share`, 0-d, of the whole row.
    """

    rotation: float = 180.0
    scale: Range = (0.9, 1.1)
    flip: float = 0.5
    crop: Range = (0.5, 1.0)
    aspect: float = 0.75
    least: int = 10_000
    drop: float = 0.2
    jitter: float = 0.01
    points: int = 60_000
    picks: int = 4096
    sampling: Literal["segments", "matched"] = "segments"
    supervoxels: Supervoxels = Supervoxels()  # noqa: RUF009 (frozen)
    features: tuple[str, ...] = ()
    origin: Origin = "sensor"
    max_points: int = MAX_POINTS

    def __post_init__(self) -> None:
        for name in ("flip", "drop", "aspect"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, in [0, 1]; got {getattr(self, name)!r}")
        for name, largest in (("scale", math.inf), ("crop", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= largest:
                raise ValueError(f"{name} must be (low, high) with 0 < low <= high <= {largest:g}; got {(low, high)}")
        if self.drop == 1 or min(self.points, self.picks, self.least) < 1 or self.jitter < 0:
            raise ValueError("points, picks and least must be at least 1, drop below 1 and jitter at least 0")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> two views of its cloud."""
        cloud = described(row, self.features, origin=self.origin, max_points=self.max_points)
        segments = self.supervoxels(cloud)
        views = [self.distorted(cloud["xyz"], rng) for _ in range(2)]
        sources = [source for source, _ in views]
        picks = self._picks(sources, segments.of_point, rng)
        sample: dict[str, Any] = {}
        for name, (source, xyz), picked in zip(("first", "second"), views, picks, strict=True):
            found = {"xyz": xyz, "features": cloud["features"][source], "source": source}
            segment = segments.of_point[source[picked]]
            sample[name] = as_tensors(found)
            sample[f"{name}_picks"] = self._filled(picked, 0)
            sample[f"{name}_segment"] = self._filled(segment, -1)
            sample[f"{name}_source"] = self._filled(source[picked], -1)
            sample[f"{name}_foreground"] = self._filled(segments.foreground_of(segment).astype(np.int64), 0) > 0
        sample["foreground_share"] = torch.tensor(segments.share)
        return sample

    def distorted(self, xyz: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N,) of the points that are left, in rising order, and their new places (N, 3)."""
        boxes, drawn, lost = rng.random((_ATTEMPTS, 3)), rng.random(4), rng.random(len(xyz))
        kept = lost >= self.drop
        if self.crop != (1.0, 1.0):
            kept &= cuboid(xyz, self.crop, self.aspect, self.least, boxes)
        source = np.flatnonzero(kept) if kept.any() else np.arange(len(xyz))
        if len(source) > self.points:
            source = np.sort(rng.permutation(source)[: self.points])
        angle = math.radians(self.rotation) * (2 * drawn[0] - 1)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * drawn[1]
        flips = (bool(drawn[2] < self.flip), bool(drawn[3] < self.flip))
        places = turned(xyz[source], angle, scale=scale, flips=flips)
        noise = rng.standard_normal(places.shape).clip(-4, 4) * self.jitter
        return source, (places + noise).astype(np.float32)

    def _picks(self, sources: Sequence[np.ndarray], of_point: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Positions in each view of the points that are contrasted."""
        if self.sampling == "matched":
            common = rng.permutation(np.intersect1d(sources[0], sources[1], assume_unique=True))[: self.picks]
            return [np.searchsorted(source, common) for source in sources]
        return [round_robin(of_point[source], self.picks, rng.permutation(len(source))) for source in sources]

    def _filled(self, values: np.ndarray, rest: int) -> Tensor:
        filled = np.full(self.picks, rest, dtype=np.int64)
        filled[: len(values)] = values
        return torch.from_numpy(filled)
