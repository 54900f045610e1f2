"""What temperature does to a softmax contrast, from similarities: losses, penalties, limits (Wang and Liu 2021).

Every function gives one number an anchor or a similarity. The losses of embeddings are `info_nce` and its relatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "candidate_probability",
    "contrastive_loss",
    "hardest",
    "kept_count",
    "large_temperature_limit",
    "penalty_entropy",
    "relative_penalty",
    "similarities",
    "similarity_gradients",
    "simple_loss",
    "small_temperature_limit",
]


def contrastive_loss(positive: Tensor, negative: Tensor, *, temperature: float, kept: Tensor | None = None) -> Tensor:
    """Per anchor, from similarities: -log(e^(s_ii / t) / (e^(s_ii / t) + sum_k e^(s_ik / t))).

    Args:
        positive: (N,).
        negative: (N, M).
        temperature: above 0.
        kept: (N, M) mask of the negatives that count; with that of `hardest` it is the hard contrastive loss.

    Returns:
        (N,), 0 for an anchor without negatives. Computed in log-space: no temperature overflows.
    """
    logits = negative / _above_zero(temperature)  # (N, M)
    if kept is not None:
        logits = logits.masked_fill(~kept, -torch.inf)
    return -logsigmoid(positive / temperature - logits.logsumexp(dim=1))


def simple_loss(
    positive: Tensor, negative: Tensor, *, weight: float | None = None, kept: Tensor | None = None
) -> Tensor:
    """Per anchor: -s_ii + weight * sum_k s_ik, all kept negatives alike.

    Args:
        positive: (N,).
        negative: (N, M).
        weight: of the sum; one over the negatives that are kept by default, the limit of a large temperature.
        kept: (N, M) mask of the negatives that count.
    """
    counted = torch.ones_like(negative) if kept is None else kept.to(negative)
    total = (negative * counted).sum(dim=1)  # (N,)
    return total * weight - positive if weight is not None else total / counted.sum(dim=1).clamp(min=1) - positive


def kept_count(negatives: int, alpha: float) -> int:
    """How many of an anchor's negatives a share of `alpha` in (0, 1] is: rounded, one at least."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is the share of negatives that is kept, in (0, 1]; got {alpha}")
    return min(negatives, max(1, math.floor(alpha * negatives + 0.5)))


@torch.no_grad()
def hardest(negative: Tensor, *, alpha: float) -> tuple[Tensor, Tensor]:
    """The informative interval [s_alpha, 1] of each anchor: its threshold (N,) and mask (N, M).

    The threshold is the k-th largest of an anchor's negatives (N, M), k = `kept_count`; ties with it are kept.
    Both are constants for the gradient; without any negatives the threshold is infinite.
    """
    if negative.shape[1] == 0:
        return negative.new_full((len(negative),), torch.inf), negative.bool()
    threshold = negative.topk(kept_count(negative.shape[1], alpha), dim=1).values[:, -1]
    return threshold, negative >= threshold[:, None]


def candidate_probability(positive: Tensor, negative: Tensor, *, temperature: float) -> Tensor:
    """P (N, 1 + M), the positive first: the softmax over all candidates."""
    return torch.cat([positive[:, None], negative], dim=1).div(_above_zero(temperature)).softmax(dim=1)


def similarity_gradients(positive: Tensor, negative: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """dL/ds_ii (N,) and dL/ds_ij (N, M) of the contrastive loss: they add up to zero in every row."""
    pushed = candidate_probability(positive, negative, temperature=temperature)[:, 1:] / temperature  # (N, M)
    return -pushed.sum(dim=1), pushed


def relative_penalty(negative: Tensor, *, temperature: float) -> Tensor:
    """r_ij (N, M): the share of an anchor's push that goes to each negative, without its positive."""
    return (negative / _above_zero(temperature)).softmax(dim=1)


def penalty_entropy(negative: Tensor, *, temperature: float) -> Tensor:
    """Entropy (N,) of the relative penalties, in nats: grows with temperature, from 0 to ln M."""
    logs = (negative / _above_zero(temperature)).log_softmax(dim=1)  # (N, M)
    return -(logs.exp() * logs).sum(dim=1)


def small_temperature_limit(positive: Tensor, negative: Tensor, *, temperature: float) -> Tensor:
    """(N,): a triplet loss of margin 0 on the hardest negative, over the temperature."""
    return (negative.amax(dim=1) - positive).clamp(min=0) / _above_zero(temperature)


def large_temperature_limit(positive: Tensor, negative: Tensor, *, temperature: float) -> Tensor:
    """(N,): the simple loss with weight 1 / M, scaled, plus ln(M + 1)."""
    count = negative.shape[1]
    share = count / ((count + 1) * _above_zero(temperature))
    return share * simple_loss(positive, negative) + math.log(count + 1)


def similarities(first: Tensor, second: Tensor, queue: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positive (N,) and negative (N, N - 1 + Q) products of anchors (N, D) with keys (N, D) and a queue (Q, D).

    In float32 at least. The whole matrix is held: memory N * (N + Q).
    """
    keys = second if queue is None else torch.cat([second, queue.to(second)])
    with torch.autocast(first.device.type, enabled=False):
        dtype = torch.promote_types(first.dtype, torch.float32)
        products = first.to(dtype) @ keys.to(dtype).T  # (N, N + Q)
    others = ~torch.eye(*products.shape, dtype=torch.bool, device=products.device)
    return products.diagonal(), products[others].view(len(first), -1)


def _above_zero(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return temperature
