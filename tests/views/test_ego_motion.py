"""Steps between poses, their composition, and poses that are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow
from counterpoint.views.ego_motion import actions_between, ego_transforms, moved, read_pose


def _pose(x: float, y: float, yaw: float, z: float = 0.0) -> np.ndarray:
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
    pose[:3, 3] = x, y, z
    return pose


def test_actions_compose_to_the_poses_they_come_from() -> None:
    rng = np.random.default_rng(0)
    poses = np.stack([_pose(*rng.normal(0, 5, 2), rng.uniform(-3, 3)) for _ in range(6)])
    transforms = ego_transforms(torch.from_numpy(actions_between(poses)))
    for number, transform in enumerate(transforms.numpy()):
        wanted = np.linalg.inv(poses[0]) @ poses[number]
        np.testing.assert_allclose(transform[:2, :2], wanted[:2, :2], atol=1e-12)
        np.testing.assert_allclose(transform[:2, 2], wanted[:2, 3], atol=1e-12)


def test_a_quarter_turn_by_hand() -> None:
    """One metre on and a quarter to the left, then again one metre: it ends at (1, 1), looking back along x."""
    actions = torch.tensor([[1.0, 0.0, math.pi / 2], [1.0, 0.0, math.pi / 2]], dtype=torch.float64)
    place = moved(ego_transforms(actions)[2], torch.tensor([[0.0, 0.0, 3.0], [1.0, 0.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(place, torch.tensor([[1.0, 1.0, 3.0], [0.0, 1.0, 3.0]], dtype=torch.float64))


def test_height_is_left_alone() -> None:
    poses = np.stack([_pose(0, 0, 0), _pose(2, 1, 0.1, z=5.0)])
    np.testing.assert_allclose(actions_between(poses), [[2, 1, 0.1]], atol=1e-12)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.eye(3), "4 x 4"),
        ("pose", "4 x 4"),
        (np.full((4, 4), np.nan), "4 x 4"),
        (2 * np.eye(4), "no rotation and shift"),
        (np.ones((4, 4)), "no rotation and shift"),
    ],
)
def test_what_is_no_pose_is_named(value: object, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        read_pose(value)


def test_a_list_is_a_pose() -> None:
    assert read_pose(np.eye(4).tolist()).dtype == np.float64
