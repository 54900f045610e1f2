"""SupReMix: contrast ordered by a regression target, with mixtures of embeddings as hard negatives and positives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.data import BadRow, Row
from counterpoint.encoders.image import ImageEncoder
from counterpoint.losses.checks import finite_loss, matrix, positive_scalar
from counterpoint.losses.tiles import working_dtype
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize, TwoViews

__all__ = ["Candidates", "Mixtures", "SupReMix", "TargetViews", "mixtures", "ordinal_contrast", "supremix_loss"]

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
    is ever built. Memory: (2B)^2 plus the (anchor, below, above) triples within the window, cubic in the worst case.

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
    size = 2 * len(first)
    if first.shape != second.shape or targets.shape != first.shape[:1]:
        shapes = [tuple(value.shape) for value in (first, second, targets)]
        raise ValueError(f"first and second must be (B, D) and targets (B,), got {shapes}")
    if coefficients is not None and coefficients.shape != (size, size):
        raise ValueError(f"coefficients must be {(size, size)}, got {tuple(coefficients.shape)}")
    if not bool(targets.isfinite().all()):
        raise ValueError("targets must be finite: leave rows without a target out")
    rows = torch.cat([first, second]).to(working_dtype(first))  # (2B, D)
    labels = targets.repeat(2)
    scale = 1 / positive_scalar("temperature", temperature, like=rows)
    candidates = None
    if coefficients is not None or window is not None:
        mixed = mixtures(labels, coefficients=coefficients, window=window)
        constant = scale * rows @ rows.detach().T  # (2B, 2B): the gradient goes to the anchor alone
        share, anchor = mixed.share.to(rows), mixed.anchor
        logits = share * constant[anchor, mixed.first] + (1 - share) * constant[anchor, mixed.second]
        distance = (labels[anchor] - mixed.target).abs()
        candidates = Candidates(anchor, logits, distance, mixed.first != anchor)
    loss = ordinal_contrast(scale * rows @ rows.T, labels, candidates=candidates, weighting=weighting)
    return finite_loss(loss, first=first, second=second)


@dataclass(frozen=True)
class TargetViews:
    """Two views of the picture, its target, and a number from which the mixing coefficients of its batch are drawn."""

    pictures: TwoViews

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> {"first", "second": (3, s, s), "target": (), "draw": ()}.

        Raises:
            BadRow: no target, or one that is no finite number.
        """
        try:
            target = float(row["target"])
        except (TypeError, ValueError):
            raise BadRow(f"its target must be a number, got {row['target']!r}") from None
        if not math.isfinite(target):
            raise BadRow(f"its target must be finite, got {target}")
        draw = int(rng.integers(2**32))
        return {**self.pictures(row, rng), "target": torch.tensor(target), "draw": torch.tensor(draw)}


class SupReMix(System):
    """Supervised contrast for regression with mixed hard negatives and hard positives (arXiv 2309.16633).

    `beta=None window=None` leaves the mixtures out, `weighting=none` besides gives SupCon on equal targets.

    Args:
        encoder: backbone, see `ImageEncoder`; what is kept after training.
        pictures: distortions of the two views.
        hidden, dim: widths of the projection head.
        temperature: divides the cosines.
        window: of hard positives, in units of the target; None for no hard positives.
        beta: parameters of the Beta distribution of the anchor's share in a hard negative; None for no hard negatives.
        weighting: of the negatives by the distance d of their target: `l1_inv` |d| + 1, `l2_inv` d^2 + 1, their
            inverses `l1` and `l2`, or `none`.
    """

    paper = "Mixup Your Own Pairs (arXiv 2309.16633)"
    needs = ("image", "target")

    def __init__(
        self,
        encoder: str = "resnet50",
        pictures: TwoViews = TwoViews(  # noqa: B008 (frozen)
            scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        hidden: int = 2048,
        dim: int = 128,
        temperature: float = 0.5,
        window: float | None = 5.0,
        beta: tuple[float, float] | None = (2.0, 8.0),
        weighting: Weighting = "l1_inv",
    ) -> None:
        super().__init__()
        if window is not None and not window > 0:
            raise ValueError(f"window must be above 0, or None for no hard positives; got {window}")
        if beta is not None and not min(beta) > 0:
            raise ValueError(f"beta must be two numbers above 0, or None for no hard negatives; got {beta}")
        self.encoder = ImageEncoder(encoder)
        norms = nn.BatchNorm1d(hidden), nn.BatchNorm1d(dim)
        for norm in norms:
            norm.sees_all_rows = True  # type: ignore[assignment]
        middle, last = nn.Linear(self.encoder.dim, hidden), nn.Linear(hidden, dim)
        self.head = nn.Sequential(middle, norms[0], nn.ReLU(), last, norms[1])
        self.pictures, self.temperature = pictures, temperature
        self.window, self.beta, self.weighting = window, beta, weighting

    def views(self) -> TargetViews:
        """Two views and the target."""
        return TargetViews(self.pictures)

    def preprocess(self) -> Resize:
        """The whole picture."""
        return Resize(self.pictures.size, self.pictures.mean, self.pictures.std)

    def encode(self, batch: Batch) -> Features:
        """`views` (B, 2, D), `target` (B,), `draw` (B,)."""
        views = self.encoder(torch.cat([batch["first"], batch["second"]])).unflatten(0, (2, -1)).transpose(0, 1)
        return {"views": views, "target": batch["target"], "draw": batch["draw"]}

    def coefficients(self, draw: Tensor) -> Tensor | None:
        """(2B, 2B) from the rows' numbers (B,), which their views drew: the same on every process."""
        if self.beta is None:
            return None
        rng = np.random.default_rng(draw.tolist())
        drawn = rng.beta(*self.beta, size=(2 * len(draw), 2 * len(draw)))
        return torch.from_numpy(drawn).float().to(draw.device)

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """The head sees both views of all rows at once. A guesser's loss is the log of the summed weights."""
        embeddings = normalize(self.head(features["views"].transpose(0, 1).flatten(0, 1)), dim=1)  # (2B, dim)
        first, second = embeddings.chunk(2)
        features["embeddings"] = torch.stack([first, second], dim=1)
        settings: dict[str, Any] = {
            "coefficients": self.coefficients(features["draw"]),
            "window": self.window,
            "temperature": self.temperature,
            "weighting": self.weighting,
        }
        with torch.no_grad():  # rows that are all alike, as far as the loss can see
            guess = supremix_loss(0 * first, 0 * second, features["target"], **settings)
        loss = supremix_loss(first, second, features["target"], **settings)
        return {"contrast": Term.mean(loss, guess=float(guess))}

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) backbone features; the head is left behind."""
        return self.encoder(batch["image"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor] | None:
        """Embeddings of the two views."""
        embeddings = features.get("embeddings")
        return None if embeddings is None else (embeddings[:, 0], embeddings[:, 1])
