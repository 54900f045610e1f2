"""A part of a recording, perturbed and with parts hidden, for training on labels of whole recordings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from counterpoint.data import Row
from counterpoint.views.audio import Cut, Perturb, SpecAugment
from counterpoint.views.log_mel import LogMel

__all__ = ["DistortedSpeech"]


@dataclass(frozen=True)
class DistortedSpeech:
    """Features of a cut of a recording.

    Attributes:
        mel: the features.
        cut: which part.
        perturb: speed and noise.
        augment: bands and stretches of time that are hidden; None for none.
    """

    mel: LogMel
    cut: Cut
    perturb: Perturb
    augment: SpecAugment | None

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> "features" (T, bins).

        Raises:
            BadRow: not a recording.
        """
        features = self.mel(self.perturb(self.cut(row["audio"], self.mel.rate, rng), rng))
        return {"features": torch.from_numpy(features if self.augment is None else self.augment(features, rng))}
