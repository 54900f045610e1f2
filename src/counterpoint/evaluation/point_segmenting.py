"""Point clouds through a model that segments them, and features of their points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data.scans import Cloud
from counterpoint.encoders.points import PointEncoder
from counterpoint.evaluation.embedding import inference, to_device
from counterpoint.views.points import PointCloud, as_tensors, described

__all__ = ["point_features", "segmented_cloud", "takes_points"]


def takes_points(system: Any) -> bool:
    """Whether a model reads point clouds."""
    return "points" in getattr(system, "needs", ())


def segmented_cloud(system: Any, row: Mapping[str, Any]) -> tuple[Cloud, np.ndarray]:
    """A row's cloud as the model sees it, all of its points, and their class numbers (N,) int64.

    Args:
        system: its `segment` takes a batch of clouds and gives class numbers (B, N); its `preprocess()` a `PointCloud`.
        row: with `points`.

    Raises:
        BadRow: no cloud, or one without a channel that the model reads.
        ValueError: `segment` gives something else.
    """
    cloud = _cloud(system, row)
    with inference(system):
        found = system.segment(_batch(system, cloud))
    wanted = (1, len(cloud["xyz"]))
    if not isinstance(found, Tensor) or tuple(found.shape) != wanted or found.is_floating_point():
        got = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{type(system).__name__}.segment must give whole numbers of shape {wanted}, got {got}")
    return cloud, found[0].cpu().long().numpy()


def point_features(system: Any, encoder: PointEncoder, row: Mapping[str, Any]) -> tuple[Cloud, np.ndarray]:
    """A row's cloud, all of its points, and the encoder's features of them (N, D) float64."""
    cloud = _cloud(system, row)
    with inference(system):
        found = encoder.per_point(_batch(system, cloud))
    return cloud, found[0].double().cpu().numpy()


def _cloud(system: Any, row: Mapping[str, Any]) -> Cloud:
    settings: PointCloud = system.preprocess()
    return described(dict(row), settings.features, origin=settings.origin, max_points=settings.max_points)


def _batch(system: Any, cloud: Cloud) -> dict[str, Tensor]:
    """A batch of this one cloud on the model's device."""
    points = as_tensors({name: cloud[name] for name in ("xyz", "features")})
    points["valid"] = torch.ones(len(points["xyz"]), dtype=torch.bool)
    return to_device({name: value[None] for name, value in points.items()}, system.device)
