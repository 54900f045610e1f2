"""Forecasts of ranges: the copy of the present by hand, what moves, and the protocol on known systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterpoint.data import Rows
from counterpoint.encoders.ray_field import Rays
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.protocols.forecast import copied_ranges, in_moving_boxes
from counterpoint.views.points import PointCloud, collate_clouds
from counterpoint.views.sweeps import SweepViews

WALL = np.stack(np.meshgrid([8.0], np.linspace(-6, 6, 121), [0.0, 0.5]), axis=-1).reshape(-1, 3)
BLOCK = np.stack(np.meshgrid([4.0], np.linspace(-0.5, 0.5, 11), [0.0, 0.5]), axis=-1).reshape(-1, 3)


def _sweep(step: int) -> dict[str, Any]:
    """A wall that stands at x = 8 and a block that comes 1 m nearer a sweep; the sensor moves 0.5 m a sweep."""
    block = BLOCK - [float(step), 0, 0]
    seen = np.concatenate([WALL[np.abs(WALL[:, 1]) > 2], block]) - [0.5 * step, 0, 0]
    pose = np.eye(4)
    pose[0, 3] = 0.5 * step
    box = {"centre": [4.0 - 1.5 * step, 0, 0.25], "size": [0.4, 1.2, 0.8], "yaw": 0.0, "label": "block"}
    still = {"centre": [8.0 - 0.5 * step, 4, 0], "size": [1, 4, 1], "yaw": 0.0, "label": "wall", "velocity": [0, 0]}
    return {"points": seen.astype(np.float32), "pose": pose, "boxes": [{**box, "velocity": [-2.0, 0.0]}, still]}


def _rows(count: int = 2, following: int = 1) -> Rows:
    row = {**_sweep(0), "future": [_sweep(step) for step in range(1, following + 1)]}
    return Rows.from_list([{**row, "id": str(number)} for number in range(count)], name="block")


class _System(nn.Module):
    """Knows the scene: a ray to the side meets the wall, another the block, where it will be or where it was."""

    view = SweepViews(ground=0.0, low=(-10.0, -10.0, -1.0), high=(10.0, 10.0, 2.0))
    device = torch.device("cpu")

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows = knows

    def preprocess(self) -> PointCloud:
        return PointCloud()

    def collate(self, samples: Any) -> dict[str, Any]:
        return collate_clouds(samples)

    def embed(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def forecast(self, points: Any, actions: Tensor, rays: Rays) -> Tensor:
        assert actions.shape == (1, 1, 3) and float(actions[0, 0, 0]) == pytest.approx(0.5)
        x = rays.origins[:, :1]
        side = (rays.directions[..., 1] / rays.directions[..., 0]).abs() > 0.2
        plane = torch.where(side, 8.0, 3.0 if self.knows else 4.0)
        return (plane - x) / rays.directions[..., 0]


def test_a_perfect_forecast_and_one_that_stands_still() -> None:
    perfect = evaluate(_System(True), _rows(), protocols=["forecast"], seed=1)
    assert perfect["scores"]["forecast/range_error"] == pytest.approx(0.0, abs=1e-5)
    assert perfect["scores"]["forecast/moving_error"] == pytest.approx(0.0, abs=1e-5)
    still = evaluate(_System(False), _rows(), protocols=["forecast"], seed=1)["scores"]
    assert still["forecast/moving_error"] == pytest.approx(1.0, rel=0.05)
    copied = still["forecast/copied_moving_error"]
    assert copied == pytest.approx(1.0, rel=0.1) and copied == perfect["chance"]["forecast/moving_error"]
    assert still["forecast/copied_range_error"] < 0.3, "most rays meet the wall, which a copy gets right"


def test_a_copy_says_the_range_of_the_nearest_direction() -> None:
    points = np.array([[4.0, 0, 0], [0, 3, 0], [0, 0, 2]])
    directions = np.array([[1.0, 0.1, 0], [0.1, 1, 0.2], [-0.1, 0, 1]])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    assert copied_ranges(points, np.zeros(3), directions).tolist() == [4.0, 3.0, 2.0]
    moved = copied_ranges(points, np.array([1.0, 0, 0]), directions[:1])
    assert moved.tolist() == [3.0], "seen from where the sensor then is"


def test_only_boxes_that_move_count() -> None:
    box = {"centre": [2.0, 0, 0], "size": [2.0, 1.0, 1.0], "yaw": np.pi / 2, "label": "car"}
    points = np.array([[2.0, 0.9, 0], [2.9, 0.0, 0], [2, 0, 0.7]])
    assert in_moving_boxes(points, [{**box, "velocity": [0.0, 3.0]}]).tolist() == [True, False, False]
    assert not in_moving_boxes(points, [{**box, "velocity": [0.1, 0.0]}, box]).any()


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValueError, match="at least 2 sweeps follow"):
        evaluate(_System(True), _rows(), protocols={"forecast": {"ahead": 2}})
    with pytest.raises(ValueError, match="'future'"):
        evaluate(_System(True), Rows.from_list([{"points": WALL, "pose": np.eye(4)}]), protocols=["forecast"])
    with pytest.raises(ValueError, match="ahead and rays"):
        evaluate(_System(True), _rows(), protocols={"forecast": {"rays": 0}})
    without = [{**row, "future": [{key: row["future"][0][key] for key in ("points", "pose")}]} for row in _rows()]
    scores = evaluate(_System(True), Rows.from_list(without), protocols=["forecast"])["scores"]
    assert set(scores) == {"forecast/range_error", "forecast/copied_range_error"}
