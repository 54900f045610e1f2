"""Class prototypes moved onto the distribution of the queries by optimal transport (OpTA)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["standardise", "transport_plan", "transport_prototypes"]


def standardise(features: Tensor) -> Tensor:
    """(N, D): every vector minus its own mean, over its own unbiased standard deviation (N, D >= 2)."""
    spread = features.std(dim=1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
    return (features - features.mean(dim=1, keepdim=True)) / spread


@torch.no_grad()
def transport_plan(
    prototypes: Tensor,
    queries: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 1000,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Entropic plan between prototypes and queries of equal weight (Cuturi 2013), on logarithms.

    Args:
        prototypes: (C, D).
        queries: (Q, D).
        epsilon: weight of the entropy, against costs in [0, 1].
        iterations: at most.
        tolerance: ends where the potentials of the prototypes move less than this in sum.

    Returns:
        The plan (C, Q), its total about 1, and the costs (C, Q): squared distances over the largest of them.

    Raises:
        ValueError: shapes that do not fit, or `epsilon` not positive.
    """
    if prototypes.dim() != 2 or queries.dim() != 2 or prototypes.shape[1] != queries.shape[1] or not len(queries):
        raise ValueError(
            f"prototypes (C, D) and queries (Q, D) must agree, got {tuple(prototypes.shape)} and {tuple(queries.shape)}"
        )
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    cost = (prototypes[:, None] - queries[None]).square().sum(dim=2)  # (C, Q)
    cost = cost / cost.max().clamp(min=torch.finfo(cost.dtype).tiny)
    u, v = cost.new_zeros(len(prototypes), 1), cost.new_zeros(1, len(queries))
    of_prototype, of_query = (math.log(1 / count + 1e-8) for count in cost.shape)
    for _ in range(iterations):
        before = u
        u = epsilon * (of_prototype - ((u + v - cost) / epsilon).logsumexp(1, keepdim=True)) + u
        v = epsilon * (of_query - ((u + v - cost) / epsilon).logsumexp(0, keepdim=True)) + v
        if float((u - before).abs().sum()) < tolerance:
            break
    return torch.exp((u + v - cost) / epsilon), cost


@torch.no_grad()
def transport_prototypes(
    prototypes: Tensor,
    queries: Tensor,
    *,
    passes: int = 5,
    ratio: float = 1.0,
    epsilon: float = 0.05,
    iterations: int = 1000,
    tolerance: float = 1e-4,
) -> Tensor:
    """OpTA (arXiv 2402.02444, section 3.3): each prototype becomes the mean of the queries that it is transported to.

    Args:
        prototypes: (C, D), one a class.
        queries: (Q, D), unlabelled; they stay as they are.
        passes: the result is transported again (5 at one shot, 1 at more).
        ratio: share of the transported prototypes, the rest being the given ones (1 at one shot, 0.7 at more).
        epsilon, iterations, tolerance: as in `transport_plan`.

    Returns:
        (C, D).
    """
    moved = prototypes
    for _ in range(passes):
        plan, _ = transport_plan(moved, queries, epsilon=epsilon, iterations=iterations, tolerance=tolerance)
        moved = plan / plan.sum(dim=1, keepdim=True) @ queries
    return ratio * moved + (1 - ratio) * prototypes
