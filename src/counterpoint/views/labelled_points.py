"""Point clouds with a class for every point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from counterpoint.data import BadRow, Row
from counterpoint.data.scans import IGNORED, Cloud, read_point_mask
from counterpoint.views.points import PointViews, as_tensors, described

__all__ = ["DistortedPoints", "LabelledPoints", "classes_of"]


def classes_of(row: Row, cloud: Cloud, classes: int | None = None) -> np.ndarray:
    """Class of every point (N,) int64 from the row's `mask`, or from the file of points where there is none.

    Args:
        row: perhaps with `mask`, see `read_point_mask`.
        cloud: what `read_points` gave for its points.
        classes: numbers from here on are refused; None takes any.

    Raises:
        BadRow: no classes, another number of them than of points, or a number that is no class.
    """
    value = row.get("mask")
    if value is None and "label" not in cloud:
        raise BadRow("no classes: the row has no mask, and its file no label of points")
    found = cloud["label"] if value is None else read_point_mask(value, cloud)
    wrong = found[(found != IGNORED) & ((found < 0) | (found >= (np.inf if classes is None else classes)))]
    if len(wrong):
        known = "begin at 0" if classes is None else f"are 0 to {classes - 1}"
        raise BadRow(f"its points have class {wrong[0]}: class numbers {known}, and {IGNORED} is ignored")
    return found


@dataclass(frozen=True)
class DistortedPoints:
    """A cloud, distorted: {"points": {"xyz" (N, 3), "features" (N, F)}}.

    Attributes:
        distortion: how it is turned, scaled, mirrored, cropped, thinned and jittered, and which channels it has.
    """

    distortion: PointViews

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> its cloud."""
        settings = self.distortion
        cloud = described(row, settings.features, origin=settings.origin, max_points=settings.max_points)
        source, xyz = settings.distorted(cloud["xyz"], rng)
        return {"points": as_tensors({"xyz": xyz, "features": cloud["features"][source]})}


@dataclass(frozen=True)
class LabelledPoints:
    """A cloud, distorted, with the class of every point: {"points": {"xyz", "features", "label" (N,)}}.

    Attributes:
        distortion: how it is turned, scaled, mirrored, cropped, thinned and jittered, and which channels it has.
        classes: class numbers from here on are refused; None takes any.
    """

    distortion: PointViews = PointViews(crop=(1.0, 1.0))  # noqa: RUF009 (frozen)
    classes: int | None = None

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> its cloud."""
        settings = self.distortion
        cloud = described(row, settings.features, origin=settings.origin, max_points=settings.max_points)
        label = classes_of(row, cloud, self.classes)
        source, xyz = settings.distorted(cloud["xyz"], rng)
        return {"points": as_tensors({"xyz": xyz, "features": cloud["features"][source], "label": label[source]})}

    def for_classes(self, classes: int | None, features: tuple[str, ...]) -> LabelledPoints:
        """The same with so many classes and these channels."""
        return replace(self, classes=classes, distortion=replace(self.distortion, features=features))
