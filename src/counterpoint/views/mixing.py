"""Mixtures of two clips of a batch: all pixels blended (mixup), or a rectangle of one in the other (cutmix)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Mixing"]


@dataclass(frozen=True)
class Mixing:
    """One draw for a whole batch: mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899), and who is mixed with whom.

    The mixture holds `share` of a row and 1 - share of its partner. The partners are rows of the same batch on the same
    process: mixtures, and nothing else, depend on how rows are dealt to processes.

    Attributes:
        mixup: both parameters of the Beta distribution of the share; 0 turns mixup off.
        cutmix: likewise for cutmix, where the share is then that of the pixels that were kept.
        switch: probability of cutmix where both are on.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0 or not 0 <= self.switch <= 1:
            raise ValueError(f"mixup and cutmix must be >= 0, switch in [0, 1]; got {self}")

    def __call__(self, video: Tensor, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Clips (B, T, 3, H, W) and labels (B,) -> `video`, `label`, `partner` (B,), `share` (B,) in [0, 1].

        `video` is a new tensor where something is mixed, else the one that was given.
        """
        rows = len(video)
        order = torch.from_numpy(rng.permutation(rows))
        cuts = bool(self.cutmix) and (not self.mixup or rng.random() < self.switch)
        strength = self.cutmix if cuts else self.mixup
        share = float(rng.beta(strength, strength)) if strength else 1.0
        corner = rng.random(2)
        if cuts:
            video, share = _pasted(video, video[order], share, corner)
        elif share < 1.0:
            video = video * share + video[order] * (1 - share)
        shares = torch.full((rows,), share, dtype=video.dtype)
        return {"video": video, "label": labels, "partner": labels[order], "share": shares}


def _pasted(video: Tensor, others: Tensor, share: float, corner: np.ndarray) -> tuple[Tensor, float]:
    """A rectangle about a drawn middle that covers 1 - share of a frame, cut off at the edges; and what is kept."""
    height, width = video.shape[-2:]
    part = (1 - share) ** 0.5
    half_height, half_width = int(height * part) // 2, int(width * part) // 2
    row, column = int(corner[0] * height), int(corner[1] * width)
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    mixed = video.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
