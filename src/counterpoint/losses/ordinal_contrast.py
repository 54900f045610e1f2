"""Contrast ordered by a regression target, with mixtures of embeddings as further candidates (SupReMix)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_rows, same_width
from counterpoint.losses.tiles import working_dtype

__all__ = ["Candidates", "Mixtures", "Weighting", "mixtures", "ordinal_contrast", "supremix_loss"]

Weighting = Literal["l1_inv", "l2_inv", "l1", "l2", "none"]


class Mixtures(NamedTuple):
    """M mixtures `share z_first + (1 - share) z_second`, each made for one anchor; all (M,).

    Attributes:
        anchor, first, second: rows. A hard negative has its anchor as `first`, a hard positive two other rows.
        share: of `first`, in [0, 1].
        target: `share t_first + (1 - share) t_second`; that of the anchor for a hard positive.
    """

    anchor: Tensor
    first: Tensor
    second: Tensor
    share: Tensor
    target: Tensor


class Candidates(NamedTuple):
    """Further candidates beside the rows themselves; all (M,): whose they are, logit, |target difference|, kind."""

    anchor: Tensor
    logits: Tensor
    distance: Tensor
    positive: Tensor


def mixtures(targets: Tensor, *, coefficients: Tensor | None = None, window: float | None = None) -> Mixtures:
    """Which rows are mixed for which anchor (section 3.2), negatives first.

    Mix-neg: for every k with another target, share a_ik of the anchor itself. Mix-pos: for every j below and k above
    the anchor's target, both nearer than `window`, the share of j that gives the mixture exactly that target.

    Args:
        targets: (N,) floating.
        coefficients: (N, N) a_ik in [0, 1]; None for no mix-neg.
        window: above 0, in units of the target; None for no mix-pos.
    """
    none = torch.empty(0, dtype=torch.int64, device=targets.device)
    ahead = targets - targets[:, None]  # (N, N): t_k - t_i
    i, k = (ahead != 0).nonzero().unbind(1) if coefficients is not None else (none, none)
    a = coefficients[i, k].to(targets) if coefficients is not None else targets[none]
    below, above = ((sign * ahead > 0) & (sign * ahead < (window or 0.0)) for sign in (-1, 1))
    anchor, low, high = _joined(below, above)
    share = ahead[anchor, high] / (targets[high] - targets[low])
    return Mixtures(
        torch.cat([i, anchor]),
        torch.cat([i, low]),
        torch.cat([k, high]),
        torch.cat([a, share]),
        torch.cat([a * targets[i] + (1 - a) * targets[k], targets[anchor]]),
    )


def _joined(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All (i, j, k) with below[i, j] and above[i, k], without a cube of N x N x N."""
    anchor, low = below.nonzero().unbind(1)
    high = above.nonzero()[:, 1]
    partners = above.sum(1)  # (N,)
    count, begin = partners[anchor], (partners.cumsum(0) - partners)[anchor]
    place = torch.arange(int(count.sum()), device=below.device)
    place = place - (count.cumsum(0) - count - begin).repeat_interleave(count)  # into `high`
    return anchor.repeat_interleave(count), low.repeat_interleave(count), high[place]


def _weight(distance: Tensor, weighting: Weighting) -> Tensor:
    """How much a negative counts by the distance of its target: "distance magnifying" (section 3.3) is `l1_inv`."""
    if weighting == "none":
        return torch.ones_like(distance)
    spread = distance.abs() if weighting.startswith("l1") else distance**2
    return spread + 1 if weighting.endswith("inv") else 1 / (spread + 1)


def ordinal_contrast(
    logits: Tensor, targets: Tensor, *, candidates: Candidates | None = None, weighting: Weighting = "l1_inv"
) -> Tensor:
    """Supervised contrast whose negatives weigh more the farther their target, from logits (equation 6).

        D_i = sum_a w_ia exp(s_ia) + sum_m w_im exp(s_im)
        L   = mean_i  mean_{p in P(i)}  log D_i - s_ip

    P(i): other rows of exactly i's target, and i's positive candidates. Anchors without any are negatives only.

    Args:
        logits: (N, N), the diagonal is not looked at.
        targets: (N,).
        candidates: mixtures.
        weighting: `l1_inv` |d| + 1, `l2_inv` d^2 + 1, `l1` and `l2` their inverses, `none` 1; in D only.
    """
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    distance = (targets - targets[:, None]).abs().to(logits)  # (N, N)
    positive = ((distance == 0) & ~itself).to(logits)
    real = logits.masked_fill(itself, float("-inf"))
    peak = real.detach().amax(1)  # (N,)
    if candidates is not None:
        peak = peak.scatter_reduce(0, candidates.anchor, candidates.logits.detach(), "amax")
    total = (_weight(distance, weighting) * (real - peak[:, None]).exp()).sum(1)
    attraction, count = (positive * logits).sum(1), positive.sum(1)
    if candidates is not None:
        anchor, wanted = candidates.anchor, candidates.positive.to(logits)
        weight = _weight(candidates.distance.to(logits), weighting)
        total = total.index_add(0, anchor, weight * (candidates.logits - peak[anchor]).exp())
        attraction = attraction.index_add(0, anchor, wanted * candidates.logits)
        count = count.index_add(0, anchor, wanted)
    anchors = count > 0
    if not bool(anchors.any()):
        raise ValueError(f"targets must hold some value twice, got {len(targets)} different ones: give two views a row")
    return (total.log() + peak - attraction / count.clamp(min=1))[anchors].mean()


def supremix_loss(
    first: Tensor,
    second: Tensor,
    targets: Tensor,
    *,
    coefficients: Tensor | None = None,
    window: float | None = None,
    temperature: float | Tensor,
    weighting: Weighting = "l1_inv",
) -> Tensor:
    """One softmax over the other rows of both views and the mixtures of each anchor (equations 3 to 6).

    Mixtures are constants that are not normalised again; as they are linear, so are their logits, and no mixed vector
    is ever built. Nothing is normalised inside. Memory: (2B)^2 plus the (anchor, below, above) triples within the
    window, cubic in the worst case.

    Args:
        first, second: (B, D) unit rows, two views.
        targets: (B,) floating.
        coefficients: (2B, 2B) share of the anchor (row) in its mixture with each other row, drawn from Beta(2, 8);
            None for no hard negatives.
        window: of hard positives, in units of the target; None for none.
        temperature: above 0.
        weighting: see `ordinal_contrast`.

    Raises:
        ValueError: shapes that do not fit, targets or rows that are not finite.
    """
    matrix(first=first, second=second)
    same_width(first=first, second=second)
    same_rows(first=first, second=second)
    size = 2 * len(first)
    if targets.shape != first.shape[:1]:
        raise ValueError(f"targets must be ({len(first)},), one a row, got {tuple(targets.shape)}")
    if coefficients is not None and coefficients.shape != (size, size):
        raise ValueError(f"coefficients must be {(size, size)}, got {tuple(coefficients.shape)}")
    if not bool(targets.isfinite().all()):
        raise ValueError("targets must be finite: leave rows without a target out")
    rows = torch.cat([first, second]).to(working_dtype(first))  # (2B, D)
    labels = targets.repeat(2)
    scale = 1 / positive_scalar("temperature", temperature, like=rows)
    candidates = None
    with torch.autocast(rows.device.type, enabled=False):  # bfloat16 cosines, divided by a temperature, say little
        if coefficients is not None or window is not None:
            mixed = mixtures(labels, coefficients=coefficients, window=window)
            constant = scale * rows @ rows.detach().T  # (2B, 2B): the gradient goes to the anchor alone
            share, anchor = mixed.share.to(rows), mixed.anchor
            logits = share * constant[anchor, mixed.first] + (1 - share) * constant[anchor, mixed.second]
            distance = (labels[anchor] - mixed.target).abs()
            candidates = Candidates(anchor, logits, distance, mixed.first != anchor)
        loss = ordinal_contrast(scale * rows @ rows.T, labels, candidates=candidates, weighting=weighting)
    return finite_loss(loss, first=first, second=second)
