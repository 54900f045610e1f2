"""SupReMix: contrast ordered by a regression target, with mixtures of embeddings as hard negatives and positives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.image import ImageEncoder
from counterpoint.losses import supremix_loss
from counterpoint.losses.ordinal_contrast import Weighting
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize, TwoViews
from counterpoint.views.targets import TargetViews

__all__ = ["SupReMix"]


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
