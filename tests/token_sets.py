"""Random sets of unit tokens, padded as captions are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


def random_tokens(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (B, n1, D), words (B, n2, D) and which words are real (B, n2), of random sizes."""
    rng = np.random.default_rng(seed)
    rows, patches, words, dim = (int(n) for n in rng.integers((2, 1, 1, 2), (6, 9, 9, 7)))
    image = normalize(torch.from_numpy(rng.normal(size=(rows, patches, dim))), dim=2)
    text = normalize(torch.from_numpy(rng.normal(size=(rows, words, dim))), dim=2)
    lengths = rng.integers(1, words + 1, rows)
    return image, text, torch.from_numpy(np.arange(words)[None] < lengths[:, None])


def real_words(text: Tensor, mask: Tensor) -> list[Tensor]:
    """Those of (n2, D) that are no padding."""
    return [word for word, real in zip(text, mask, strict=True) if real]
