"""How a sensor moves over the ground: steps between its poses, and where later ones lie seen from the first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow

__all__ = ["actions_between", "ego_transforms", "moved", "read_pose"]

_RIGID = 1e-3
"""How far the rotation of a pose may be from one."""


def read_pose(value: object) -> np.ndarray:
    """(4, 4) float64, sensor -> world.

    Raises:
        BadRow: no such matrix, not finite, or not a rotation and a shift.
    """
    try:
        pose = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.zeros(0)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise BadRow(f"its pose must be a 4 x 4 matrix of numbers (sensor to world), got shape {pose.shape}")
    turn = pose[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > _RIGID or np.abs(pose[3] - (0, 0, 0, 1)).max() > _RIGID:
        raise BadRow("its pose is no rotation and shift: a 4 x 4 matrix with last row 0 0 0 1 (sensor to world)")
    return pose


def actions_between(poses: np.ndarray) -> np.ndarray:
    """Poses (n + 1, 4, 4) of consecutive sweeps -> actions (n, 3): dx, dy in metres and turn in radians.

    Action k is the pose of sweep k + 1 in the frame of sweep k, without height, roll and pitch.
    """
    steps = np.linalg.inv(poses[:-1]) @ poses[1:]  # (n, 4, 4)
    return np.stack([steps[:, 0, 3], steps[:, 1, 3], np.arctan2(steps[:, 1, 0], steps[:, 0, 0])], axis=1)


def ego_transforms(actions: Tensor) -> Tensor:
    """Actions (..., n, 3) -> (..., n + 1, 3, 3): frame k to frame 0 on (x, y, 1), composed left to right; k = 0 is I.

    Args:
        actions: dx, dy, turn of frame k + 1 in frame k.
    """
    cosine, sine = actions[..., 2].cos(), actions[..., 2].sin()
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    rows = ((cosine, -sine, actions[..., 0]), (sine, cosine, actions[..., 1]), (zero, zero, one))
    steps = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # (..., n, 3, 3)
    found = [torch.eye(3, dtype=actions.dtype, device=actions.device).expand(*actions.shape[:-2], 3, 3)]
    for number in range(actions.shape[-2]):
        found.append(found[-1] @ steps[..., number, :, :])
    return torch.stack(found, dim=-3)


def moved(transform: Tensor, points: Tensor) -> Tensor:
    """Points (..., P, 3) under transforms (..., 3, 3) of (x, y, 1); z is left alone."""
    flat = points[..., :2] @ transform[..., :2, :2].mT + transform[..., None, :2, 2]
    return torch.cat([flat, points[..., 2:]], dim=-1)
