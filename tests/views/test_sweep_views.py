"""Rays of a sweep and of those that follow: all in one frame, without the ground, from where the sensor then is."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow
from counterpoint.views.ego_motion import ego_transforms
from counterpoint.views.points import collate_clouds
from counterpoint.views.sweeps import SweepViews, horizon_at, returns_above_ground, steps_ahead, turned_pose

LANDMARKS = np.array([[8.0, 3.0, 0.5], [-6.0, 9.0, 1.0], [12.0, -7.0, 0.2]])
VIEW = SweepViews(horizon=2, rays=8, ground=0.0, features=("intensity",))


def _pose(step: int) -> np.ndarray:
    pose, yaw = np.eye(4), 0.3 + 0.2 * step
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[:3, 3] = 5 + 1.5 * step, -2 + 0.5 * step, 1.8
    return pose


def _sweep(step: int) -> dict[str, Any]:
    """The landmarks, whose places are in the frame of sweep 0, as sweep `step` sees them."""
    world = LANDMARKS @ _pose(0)[:3, :3].T + _pose(0)[:3, 3]
    own = (world - _pose(step)[:3, 3]) @ _pose(step)[:3, :3]
    points = np.column_stack([own, [0.25, 0.5, 0.75]]).astype(np.float32)
    return {"id": "a", "points": points, "pose": _pose(step)}


def _row(following: int = 2) -> dict[str, Any]:
    return {**_sweep(0), "future": [_sweep(step) for step in range(1, following + 1)]}


@pytest.mark.parametrize("rotation", [0.0, 170.0])
def test_every_sweep_sees_the_same_landmarks_from_its_own_place(rotation: float) -> None:
    view = SweepViews(horizon=2, rays=8, ground=0.0, rotation=rotation)
    sample = view(_row(), np.random.default_rng(1))
    seen = sample["origins"][:, None] + sample["directions"] * sample["ranges"][..., None]  # (3, 8, 3)
    first = seen[0, :3].numpy()[np.argsort(seen[0, :3, 2].numpy())]
    for step in range(3):
        assert (sample["ranges"][step] > 0).tolist() == [True] * 3 + [False] * 5
        found = seen[step, :3].numpy()
        np.testing.assert_allclose(found[np.argsort(found[:, 2])], first, atol=1e-5)
    np.testing.assert_allclose(
        sorted(np.linalg.norm(first, axis=1)), sorted(np.linalg.norm(LANDMARKS, axis=1)), atol=1e-5
    )
    assert rotation == 0 or np.abs(first - LANDMARKS[np.argsort(LANDMARKS[:, 2])]).max() > 0.5
    np.testing.assert_allclose(sample["directions"].norm(dim=2), 1.0, atol=1e-6)
    # The sensor's places are those that its actions lead to, in the turned frame too.
    np.testing.assert_allclose(ego_transforms(sample["actions"])[:, :2, 2], sample["origins"][:, :2], atol=1e-5)
    np.testing.assert_allclose(sample["points"]["xyz"].norm(dim=1), np.linalg.norm(LANDMARKS, axis=1), atol=1e-5)


def test_intensity_goes_with_its_ray_and_is_not_invented() -> None:
    sample = VIEW(_row(), np.random.default_rng(0))
    order = sample["intensity"][1, :3].argsort()
    seen = (sample["origins"][1] + sample["directions"][1] * sample["ranges"][1, :, None])[:3][order]
    np.testing.assert_allclose(seen, LANDMARKS, atol=1e-5)
    assert sample["lit"].sum() == 9
    dark = {**_row(), "points": _row()["points"][:, :3]}
    assert SweepViews(rays=8, ground=0.0)(dark, np.random.default_rng(0))["lit"].sum(dim=1).tolist() == [0, 3, 3]


def test_the_ground_and_what_lies_outside_the_box_are_no_targets() -> None:
    rng = np.random.default_rng(0)
    ground = np.column_stack([rng.uniform(-15, 15, (2000, 2)), rng.normal(-1.8, 0.02, 2000)])
    things = rng.uniform(-1, 1, (40, 3)) * [0.5, 0.5, 1.0] + [6, 2, -0.5]
    far = np.tile([300.0, 0, 0], (5, 1))
    cloud = np.concatenate([ground, things, far]).astype(np.float32)
    box = {"low": (-20.0, -20.0, -2.4), "high": (20.0, 20.0, 4.0), "nearest": 1.0}
    kept, intensity = returns_above_ground(cloud, np.eye(4), ground=0.2, rng=np.random.default_rng(1), **box)
    assert intensity is None
    assert 35 <= len(kept) <= 60, "the thing, and a few points of the ground"
    everything, _ = returns_above_ground(cloud, np.eye(4), ground=0.0, rng=np.random.default_rng(1), **box)
    assert len(everything) == 2040 - (np.linalg.norm(ground, axis=1) <= 1).sum()


def test_fewer_sweeps_than_the_horizon_are_counted_and_none_is_refused() -> None:
    sample = VIEW(_row(1), np.random.default_rng(0))
    assert int(sample["following"]) == 1
    assert (sample["ranges"] > 0).any(dim=1).tolist() == [True, True, False]
    assert not sample["actions"][1].any()
    with pytest.raises(BadRow, match="no sweep follows"):
        VIEW(_row(0), np.random.default_rng(0))
    alone = SweepViews(horizon=0, rays=8, ground=0.0)({"id": "a", "points": _row()["points"]}, np.random.default_rng(0))
    assert alone["ranges"].shape == (1, 8) and alone["actions"].shape == (0, 3)


def test_draws_come_from_the_generator_alone_and_samples_can_be_joined() -> None:
    first, second = (VIEW(_row(), np.random.default_rng(3)) for _ in range(2))
    for name in ("ranges", "offsets", "directions", "draw"):
        assert np.array_equal(first[name], second[name])
    batch = collate_clouds([first, pickle.loads(pickle.dumps(VIEW))(_row(1), np.random.default_rng(4))])
    assert batch["directions"].shape == (2, 3, 8, 3) and batch["draw"].shape == (2,)
    assert batch["offsets"].min() >= 0 and batch["offsets"].max() < 1
    assert batch["points"]["features"].shape == (2, 3, 1)


def test_a_turned_pose_moves_turned_points_alike() -> None:
    turn = turned_pose(np.eye(4), 0.7)
    np.testing.assert_allclose(turn, np.eye(4), atol=1e-12)
    relative = np.linalg.inv(_pose(0)) @ _pose(1)
    point, rotation = np.array([1.0, 2.0, 3.0, 1.0]), torch.tensor(0.7)
    c, s = float(rotation.cos()), float(rotation.sin())
    matrix = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(turned_pose(relative, 0.7) @ (matrix @ point), matrix @ relative @ point, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": -1}, "horizon"),
        ({"rays": 0}, "rays"),
        ({"ground": -0.1}, "ground"),
        ({"low": (1, 1, 9.0)}, "below"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepViews(**settings)


def test_the_horizon_grows_in_equal_parts() -> None:
    assert [horizon_at(p, 3) for p in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert [horizon_at(p, 1) for p in (0.0, 1.0)] == [1, 1]


def test_nearer_sweeps_are_drawn_twice_as_often() -> None:
    draws = (torch.arange(7000) + 0.5) / 7000
    steps = steps_ahead(draws, torch.full((7000,), 3))
    counts = torch.bincount(steps, minlength=4)
    assert [abs(int(a) - b) <= 1 for a, b in zip(counts, (0, 4000, 2000, 1000), strict=True)] == [True] * 4
    assert steps_ahead(torch.tensor([0.0, 0.999999]), torch.tensor([2, 1])).tolist() == [1, 1]
    assert steps_ahead(torch.tensor([0.999999]), torch.tensor([4])).tolist() == [4]
