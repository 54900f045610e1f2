"""Clouds of points with upright boxes: both are turned, mirrored and scaled alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from counterpoint.data import BadRow, Row
from counterpoint.data.scans import MAX_POINTS
from counterpoint.views.points import as_tensors, described, turned

__all__ = ["BoxedCloud", "read_boxes"]

Boxes = dict[str, np.ndarray]


def read_boxes(row: Row, classes: Sequence[str]) -> Boxes:
    """Boxes of a row whose label is among the classes, in the frame of the points.

    Args:
        row: with `boxes`: a list of {"centre": [x, y, z], "size": [length, width, height], "yaw": radians from x
            towards y, "label": a class's name or number}.
        classes: their names; boxes of others are left out.

    Returns:
        `xyz` (M, 3) centres, `size` (M, 3), `yaw` (M,) float32, and `label` (M,) int64.

    Raises:
        BadRow: no list of boxes, or one that lacks a part or is not finite.
    """
    value = row["boxes"]
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence | np.ndarray):
        raise BadRow(f"its boxes are a {type(value).__name__}; a list of boxes is needed, empty where there are none")
    found = []
    for box in value:
        label = _label(box, classes)
        if label is not None:
            found.append([*_numbers(box, "centre", 3), *_numbers(box, "size", 3), *_numbers(box, "yaw", 1), label])
    table = np.array(found, dtype=np.float64).reshape(-1, 8)
    if bool((table[:, 3:6] <= 0).any()):
        raise BadRow("one of its boxes has a side of 0 or less")
    parts = {"xyz": table[:, :3], "size": table[:, 3:6], "yaw": table[:, 6]}
    return {**{name: part.astype(np.float32) for name, part in parts.items()}, "label": table[:, 7].astype(np.int64)}


def _label(box: Any, classes: Sequence[str]) -> int | None:
    if not isinstance(box, Mapping) or "label" not in box:
        raise BadRow("one of its boxes is no mapping with centre, size, yaw and label")
    label = box["label"]
    if isinstance(label, str):
        return list(classes).index(label) if label in classes else None
    return int(label) if 0 <= int(label) < len(classes) else None


def _numbers(box: Mapping[str, Any], name: str, count: int) -> list[float]:
    try:
        values = np.asarray(box[name], dtype=np.float64).reshape(-1)
    except (KeyError, TypeError, ValueError):
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all():
        raise BadRow(f"one of its boxes has no usable {name!r}: {count} finite number{'s' if count > 1 else ''}")
    return list(values)


@dataclass(frozen=True)
class BoxedCloud:
    """A cloud and its boxes, for training a detector.

    Attributes:
        rotation: both are turned about z by up to so many degrees.
        scale: range of a factor of all lengths.
        flip: probability of mirroring y (left and right).
        drop: share of the points that is left out.
        points: of a cloud, at most, drawn.
        features: channels beside the place, see `described`.
        classes: names of the classes; boxes of others are left out.
        max_points: files with more are refused.

    Returns of a call: `points`: the cloud {"xyz": (N, 3), "features": (N, F)}; `boxes`: {"xyz": (M, 3), "size": (M, 3),
    "yaw": (M,), "label": (M,)}.
    """

    rotation: float = 45.0
    scale: tuple[float, float] = (0.95, 1.05)
    flip: float = 0.5
    drop: float = 0.1
    points: int = 200_000
    features: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    max_points: int = MAX_POINTS

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}")
        if not 0 <= self.flip <= 1 or not 0 <= self.drop < 1 or self.points < 1 or self.rotation < 0:
            raise ValueError("flip must be in [0, 1], drop in [0, 1), points at least 1, rotation at least 0")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> cloud and boxes."""
        cloud, boxes = described(row, self.features, max_points=self.max_points), read_boxes(row, self.classes)
        drawn = rng.random(3)
        count = len(cloud["xyz"])
        left = min(self.points, max(1, round(count * (1 - self.drop))))
        kept = np.sort(rng.permutation(count)[:left])
        angle = math.radians(self.rotation) * (2 * drawn[0] - 1)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * drawn[1]
        flipped = bool(drawn[2] < self.flip)
        change: dict[str, Any] = {"scale": scale, "flips": (False, flipped)}
        points = {"xyz": turned(cloud["xyz"][kept], angle, **change), "features": cloud["features"][kept]}
        yaw = (-boxes["yaw"] if flipped else boxes["yaw"]) + np.float32(angle)
        moved = {
            "xyz": turned(boxes["xyz"], angle, **change),
            "size": boxes["size"] * np.float32(scale),
            "yaw": yaw,
            "label": boxes["label"],
        }
        return {"points": as_tensors(points), "boxes": as_tensors(moved)}
