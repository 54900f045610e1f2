"""Contrast of sentences with hard negatives and a queue. Rows are brought to unit length inside, as the papers do."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.geometry import unit_length
from counterpoint.losses.info_nce import info_nce

__all__ = ["esimcse_loss"]


def esimcse_loss(
    first: Tensor,
    second: Tensor,
    *,
    queue: Tensor | None = None,
    hard_negatives: Tensor | None = None,
    hard_negative_weight: float = 0.0,
    temperature: float,
) -> Tensor:
    """Mean of -log exp(cos(z_i, z_i+) / t) / (sum_j exp(cos(z_i, z_j+) / t) + sum_m exp(cos(z_i, q_m) / t)).

    One-sided: the anchors are `first`. Without `queue` it is SimCSE (Gao et al. 2021, eq. 4; with
    `hard_negatives` its supervised form, eq. 5), with it ESimCSE (section 3). Where both are given the
    official code forgets the hard negatives; here they count.

    Args:
        first, second: (B, D), any length.
        queue: (M, D), shared by all anchors.
        hard_negatives: (B, D), row i made for anchor i; negatives of every anchor.
        hard_negative_weight: added to the logit of anchor i against its own hard negative.
        temperature: above 0.
    """
    others = [unit_length(rows) for rows in (hard_negatives, queue) if rows is not None and len(rows)]
    bias = None
    if hard_negatives is not None and hard_negative_weight != 0.0:
        bias = first.new_zeros(len(first), sum(map(len, others)))  # (B, B + M)
        bias.fill_diagonal_(hard_negative_weight)
    return info_nce(
        unit_length(first),
        unit_length(second),
        negatives=torch.cat(others) if others else None,
        negative_bias=bias,
        temperature=temperature,
    )
