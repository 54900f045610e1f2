"""How far off the ranges are that a model says a laser scanner will measure next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.spatial import cKDTree

from counterpoint.data import BadRow
from counterpoint.data.scans import read_points
from counterpoint.encoders.ray_field import Rays
from counterpoint.evaluation.embedding import inference
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task
from counterpoint.views.ego_motion import actions_between
from counterpoint.views.sweeps import following, returns_above_ground

__all__ = ["Forecast", "copied_ranges", "in_moving_boxes"]

_MOVING = 0.5  # metres a second
_ROOM = 0.1  # metres that a box is grown by, for the noise of ranges


@dataclass(frozen=True)
class Forecast(Protocol):
    """Mean absolute difference, in metres, of forecast and measured ranges of a later sweep's returns above the ground.

    The model sees the present sweep and how the sensor moves. The guesser copies the present sweep, moved with the
    sensor: along a ray it says the range of the point whose direction is nearest. Returns beyond the model's range are
    left out.

    Attributes:
        ahead: how many sweeps later.
        rays: of a row, at most, drawn; those on moving things (more than 0.5 m/s, where the later sweep has boxes with
            a `velocity`) are drawn by themselves.
    """

    columns: ClassVar[tuple[str, ...]] = ("points", "pose", "future")

    ahead: int = 1
    rays: int = 512

    def __post_init__(self) -> None:
        if self.ahead < 1 or self.rays < 1:
            raise ValueError(f"ahead and rays must be at least 1, got {self.ahead} and {self.rays}")

    def run(self, task: Task) -> Measured:
        """`range_error`, and `moving_error` on moving things; `copied_...` of the guesser beside them."""
        if not hasattr(task.system, "forecast"):
            raise NotApplicable("needs a model that forecasts sweeps (method forecast)")
        rng = task.rng()
        errors: dict[str, list[np.ndarray]] = {}
        for position, row in enumerate(task.rows.scan(1)):
            try:
                if isinstance(row, BadRow):
                    raise row
                found = self._errors(task.system, row, rng)
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
                continue
            for name, values in found.items():
                errors.setdefault(name, []).append(values)
        if not errors:
            raise NotApplicable(f"needs rows that at least {self.ahead} sweeps follow")
        joined = {name: np.concatenate(values) for name, values in errors.items()}
        scores = {name: float(values.mean()) for name, values in joined.items() if len(values)}
        chance = {name: scores[f"copied_{name}"] for name in scores if not name.startswith("copied_")}
        return Measured(scores, chance, {"rays": {name: len(values) for name, values in joined.items()}})

    def _errors(self, system: Any, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Absolute errors of one row's rays, by name."""
        sweeps, poses = following(dict(row), self.ahead)
        if len(sweeps) < self.ahead:
            return {}
        view, later, pose = system.view, sweeps[-1], poses[-1]
        box = {"low": view.low, "high": view.high, "nearest": view.nearest, "ground": view.ground, "rng": rng}
        places, _ = returns_above_ground(later["points"], pose, **box)  # (M, 3), frame of the row
        own = (places - pose[:3, 3]) @ pose[:3, :3]  # the frame of the later sweep
        moving = in_moving_boxes(own, later.get("boxes") or ())
        chosen = {"range_error": rng.permutation(len(places))[: self.rays]}
        if later.get("boxes") is not None:
            chosen["moving_error"] = rng.permutation(np.flatnonzero(moving))[: self.rays]
        way = places - pose[:3, 3]
        ranges = np.linalg.norm(way, axis=1)
        directions = way / np.maximum(ranges, 1e-6)[:, None]
        picked = np.concatenate(list(chosen.values())).astype(int)
        if not len(picked):
            return {}
        ours = _forecast(system, row, actions_between(poses), pose[:3, 3], directions[picked])
        copied = copied_ranges(read_points(row["points"])["xyz"], pose[:3, 3], directions[picked])
        ends = np.cumsum([len(part) for part in chosen.values()])[:-1]
        found: dict[str, np.ndarray] = {}
        for start, said in (("", ours), ("copied_", copied)):
            parts = np.split(np.abs(said - ranges[picked]), ends)
            found |= {f"{start}{name}": part for name, part in zip(chosen, parts, strict=True)}
        return found


def _forecast(
    system: Any, row: Mapping[str, Any], actions: np.ndarray, origin: np.ndarray, directions: np.ndarray
) -> np.ndarray:
    """(R,) ranges that the system says."""
    with inference(system):
        device = system.device

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values.astype(np.float32))[None].to(device)

        points = system.collate([system.preprocess()(dict(row))])["points"]
        blank = np.zeros(len(directions))
        rays = Rays(tensor(origin), tensor(directions), tensor(blank), tensor(blank + 0.5))
        moved = {name: value.to(device) for name, value in points.items()}
        return system.forecast(moved, tensor(actions), rays)[0].cpu().double().numpy()


def copied_ranges(points: np.ndarray, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(R,) range from an origin of that point (N, 3) whose direction is nearest to each of (R, 3) unit vectors."""
    way = points.astype(np.float64) - origin
    ranges = np.linalg.norm(way, axis=1)
    _, nearest = cKDTree(way / np.maximum(ranges, 1e-6)[:, None]).query(directions)
    return ranges[nearest]


def in_moving_boxes(points: np.ndarray, boxes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which of (N, 3) points lie in a box that moves, in the boxes' frame."""
    found = np.zeros(len(points), dtype=bool)
    for box in boxes:
        if np.hypot(*box.get("velocity", (0.0, 0.0))) <= _MOVING:
            continue
        cosine, sine = math.cos(box["yaw"]), math.sin(box["yaw"])
        way = points - np.array(box["centre"])
        local = np.stack([cosine * way[:, 0] + sine * way[:, 1], cosine * way[:, 1] - sine * way[:, 0], way[:, 2]])
        found |= (np.abs(local.T) <= np.array(box["size"]) / 2 + _ROOM).all(axis=1)
    return found
