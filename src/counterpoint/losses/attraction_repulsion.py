"""Attraction of views and repulsion of all others as two terms, as BECLR has them (arXiv 2402.02444).

Rows are brought to unit length inside: the terms are of cosines.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["memory_loss", "negative_loss", "positive_loss"]


def positive_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the mean cosine of each student prediction with the teacher's projection of the other view.

    Args:
        prediction, target: (2 n, D), view 1 above view 2; no gradient reaches the target.
    """
    swapped = target.detach().roll(len(target) // 2, dims=0)
    return -torch.cosine_similarity(prediction, swapped, dim=1).mean()


def negative_loss(rows: Tensor, *, temperature: float) -> Tensor:
    """Uniformity: log of the mean of exp(cos / T) over all pairs but those of one picture.

    Args:
        rows: (2 n, D), view 1 above view 2, n at least 2. Memory is quadratic in n.
        temperature: T.
    """
    count = len(rows)
    if count < 4:
        raise ValueError(f"there are no negatives among the {count} views of one picture")
    unit = normalize(rows, dim=1)
    same = torch.eye(count // 2, dtype=torch.bool, device=rows.device).repeat(2, 2)  # (2 n, 2 n)
    exponents = (unit @ unit.T / temperature).masked_fill(same, -torch.inf)
    return exponents.flatten().logsumexp(0) - math.log(count * (count - 2))


def memory_loss(rows: Tensor, bank: Tensor, *, threshold: float, temperature: float) -> Tensor:
    """The same against a memory (M, D) of which what is more similar than `threshold` may be of the same class.

    Such similarities count as 0, as in the official code, and not in the divisor.
    """
    similarity = normalize(rows, dim=1) @ normalize(bank, dim=1).T  # (2 n, M)
    negative = similarity <= threshold
    exponents = torch.where(negative, similarity, 0.0) / temperature
    return exponents.flatten().logsumexp(0) - torch.log((negative.sum() * len(rows)).to(exponents))
