"""Pictures through a model that segments them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.evaluation.embedding import inference

__all__ = ["segmented"]


def segmented(system: Any, picture: np.ndarray, *, method: str = "segment") -> np.ndarray:
    """(H, W, 3) uint8 through the model's `segment` -> class numbers (H, W) int64.

    Args:
        system: its method takes pictures (B, 3, H, W) in [0, 1] and gives class numbers (B, H, W).
        picture: of any size.
        method: name of the method.

    Raises:
        ValueError: the method gives something else.
    """
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with inference(system):
        found = getattr(system, method)(images)
    wanted = (1, *picture.shape[:2])
    if not isinstance(found, Tensor) or tuple(found.shape) != wanted or found.is_floating_point():
        got = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{type(system).__name__}.{method} must give whole numbers of shape {wanted}, got {got}")
    return found[0].cpu().long().numpy()
