"""What temperature does to a contrastive loss: whom it punishes, and the uniformity-tolerance dilemma that follows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from counterpoint import geometry
from counterpoint.encoders.image import ImageEncoder
from counterpoint.losses import info_nce
from counterpoint.losses.temperature_behaviour import contrastive_loss, hardest, kept_count, similarities, simple_loss
from counterpoint.memory import MomentumEncoder, Queue
from counterpoint.system import Batch, Features, System
from counterpoint.views.image import Resize, TwoViews

if TYPE_CHECKING:
    from counterpoint.data import Rows

__all__ = ["ContrastiveLossBehaviour"]


class ContrastiveLossBehaviour(System):
    """Contrastive learning with the ordinary, hard, simple or hard simple loss at any temperature (2012.09740).

    Args:
        encoder: backbone, see `ImageEncoder`; what is kept after training.
        view: how the two views of a picture are drawn.
        hidden, dim: widths of the projection head.
        objective: "contrastive", or "simple", which weighs all negatives alike.
        temperature: of the contrastive objective: small ones spread rows, large ones tolerate neighbours.
        alpha: share of the hardest negatives that count; 1 counts all. The negatives that are left should be many
            more than the rows of one class: below 0.3 within a batch training may collapse; take a queue.
        weight: lambda of the simple objective; one over the negatives that count by default.
        symmetric: both views are anchors in turn; the paper's loss is one-sided.
        queue: keys of earlier steps that are negatives too; 0 has neither queue nor momentum encoder.
        momentum: of the encoder of the keys, when there is a queue.
    """

    paper = "Understanding the Behaviour of Contrastive Loss (arXiv 2012.09740)"

    def __init__(
        self,
        encoder: str = "resnet18",
        view: TwoViews = TwoViews(),  # noqa: B008 (frozen)
        hidden: int = 512,
        dim: int = 128,
        objective: Literal["contrastive", "simple"] = "contrastive",
        temperature: float = 0.2,
        alpha: float = 1.0,
        weight: float | None = None,
        symmetric: bool = False,
        queue: int = 0,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if symmetric and queue:
            raise ValueError(f"symmetric=True has no keys for a queue, got queue={queue}: set one of them to 0 / False")
        kept_count(1, alpha)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.encoder = ImageEncoder(encoder)
        self.head = nn.Sequential(nn.Linear(self.encoder.dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.slow = MomentumEncoder(nn.Sequential(self.encoder, self.head), momentum) if queue else None
        self.queue = Queue(queue, dim) if queue else None
        self.view, self.objective, self.temperature = view, objective, temperature
        self.alpha, self.weight, self.symmetric = alpha, weight, symmetric

    def views(self) -> TwoViews:
        """Two of each picture."""
        return self.view

    def preprocess(self) -> Resize:
        """The whole picture at the size of the views."""
        return Resize(self.view.size, self.view.mean, self.view.std)

    def before_step(self) -> None:
        """The encoder of the keys moves towards the weights before this step's update."""
        if self.slow is not None:
            self.slow.update(nn.Sequential(self.encoder, self.head))

    def project(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, dim) unit rows: the embedding that the loss and the paper's measures see."""
        return geometry.unit_length(self.head(self.encoder(images)))

    def encode(self, batch: Batch) -> Features:
        """`first` and `second` (B, dim): anchors and keys, unit rows."""
        if self.slow is not None:
            return {"first": self.project(batch["first"]), "second": geometry.unit_length(self.slow(batch["second"]))}
        first, second = self.project(torch.cat([batch["first"], batch["second"]])).chunk(2)
        return {"first": first, "second": second}

    def contrast(self, first: Tensor, second: Tensor) -> Tensor:
        """The mean over anchors (N, D) of the chosen loss against keys (N, D) and the queue."""
        queue = self.queue.rows() if self.queue is not None else None
        if self.objective == "contrastive" and self.alpha == 1:  # the same value, in memory linear in N
            return info_nce(first, second, negatives=queue, temperature=self.temperature)
        positive, negative = similarities(first, second, queue)
        kept = hardest(negative, alpha=self.alpha)[1] if self.alpha < 1 else None
        if self.objective == "simple":
            return simple_loss(positive, negative, weight=self.weight, kept=kept).mean()
        return contrastive_loss(positive, negative, temperature=self.temperature, kept=kept).mean()

    def loss(self, features: Features) -> dict[str, Any]:
        """One-sided, or the mean of both sides."""
        first, second = features["first"], features["second"]
        loss = self.contrast(first, second)
        return {"contrast": (loss + self.contrast(second, first)) / 2 if self.symmetric else loss}

    def after_step(self, features: Features) -> None:
        """The step's keys enter the queue."""
        if self.queue is not None:
            self.queue.push(features["second"])

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) encoder output, without the head, not normalised."""
        return self.encoder(batch["image"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """Anchors and keys."""
        return features["first"], features["second"]

    def pair_temperature(self) -> float | None:
        """That of the contrastive objective; the simple one has none."""
        return self.temperature if self.objective == "contrastive" else None

    def guess_level(self, rows: int) -> float:
        """ln of the candidates that count; 0 for the simple objective."""
        others = max(0, rows - 1) + (len(self.queue) if self.queue is not None else 0)
        return math.log(1 + kept_count(others, self.alpha)) if self.objective == "contrastive" else 0.0

    @torch.no_grad()
    def _projected(self, rows: Rows) -> Tensor:
        """(N, dim) unit rows on the CPU."""
        prepare, parts = self.eval().preprocess(), range(0, len(rows), 256)
        batches = (torch.stack([prepare(row)["image"] for row in rows[start : start + 256]]) for start in parts)
        return torch.cat([self.project(batch.to(self.device)).cpu() for batch in batches])

    def measure_uniformity(self, rows: Rows, *, seed: int = 0) -> float:
        """Uniformity of the projections; lower is more uniform. The paper draws it with the other sign."""
        return float(geometry.uniformity(self._projected(rows)))

    def measure_tolerance(self, rows: Rows, *, seed: int = 0) -> float:
        """Tolerance of the projections, over pairs of one label; higher means tighter classes."""
        return float(geometry.tolerance(self._projected(rows), torch.tensor(rows.column("label"))))
