"""SwAV: predict the cluster assignment of one view of an image from the other views."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.heads import projection_head
from counterpoint.encoders.image import ImageEncoder
from counterpoint.losses import sinkhorn, swapped_prediction
from counterpoint.memory import Prototypes, Queues
from counterpoint.system import Batch, Features, System
from counterpoint.views.image import MultiCrop, Resize

if TYPE_CHECKING:
    from counterpoint.data import Rows

__all__ = ["SwAV", "encode_crops"]


def encode_crops(backbone: Callable[[Tensor], Tensor], crops: Sequence[Tensor]) -> Tensor:
    """V crops (B, 3, s, s) -> (V * B, D), crop by crop; consecutive crops of one size share one call."""
    runs = itertools.groupby(crops, key=lambda crop: crop.shape[-1])
    return torch.cat([backbone(torch.cat(list(run))) for _, run in runs])


class SwAV(System):
    """Clusters and features learnt together by swapped prediction (arXiv 2006.09882).

    Args:
        encoder: backbone, see `ImageEncoder`; what is kept after training.
        crops: sizes, counts and distortions of the views.
        assigned: numbers of the crops that get codes, all others only predict.
        hidden, dim: widths of the projection head.
        prototypes: number of clusters.
        temperature: of the predictions.
        epsilon: entropy of the codes; smaller is harder. Scores are divided by it alone, not by the temperature.
        iterations: of Sinkhorn.
        codes: "softmax" leaves the balancing out, for the ablation: it collapses.
        queue: earlier embeddings per assigned crop that join the codes once the queue is full; 0 for none.
        queue_starts: epoch in which the queue begins to fill.
        freeze: first steps in which the prototypes get no gradient, so no momentum and no weight decay either.
    """

    paper = "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (arXiv 2006.09882)"

    def __init__(
        self,
        encoder: str = "resnet50",
        crops: MultiCrop = MultiCrop(),  # noqa: B008 (frozen)
        assigned: tuple[int, ...] = (0, 1),
        hidden: int = 2048,
        dim: int = 128,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        codes: Literal["sinkhorn", "softmax"] = "sinkhorn",
        queue: int = 0,
        queue_starts: int = 15,
        freeze: int = 313,
    ) -> None:
        super().__init__()
        views = sum(crops.counts)
        if views < 2 or not assigned or not set(assigned) <= set(range(views)):
            raise ValueError(
                f"assigned={assigned} must name some of the {views} crops (two at least) of {crops.counts}"
            )
        self.encoder = ImageEncoder(encoder)
        self.head = projection_head(self.encoder.dim, hidden, dim)
        self.prototypes = Prototypes(dim, prototypes)
        self.queues = Queues(map(str, assigned), queue, dim) if queue else None
        self.crops, self.assigned, self.codes = crops, assigned, codes
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.queue_starts, self.freeze = queue_starts, freeze

    def views(self) -> MultiCrop:
        """All crops of a picture."""
        return self.crops

    def preprocess(self) -> Resize:
        """The whole picture at the size of the large crops."""
        return Resize(self.crops.sizes[0], self.crops.mean, self.crops.std)

    def before_step(self) -> None:
        """Prototypes go back to the sphere; frozen ones get no gradient."""
        self.prototypes.normalise_()
        self.prototypes.frozen = self.clock.step < self.freeze

    def encode(self, batch: Batch) -> Features:
        """crops: (B, V, D) backbone features."""
        crops = [crop for i in range(len(self.crops.sizes)) for crop in batch[f"crops{i}"].unbind(1)]
        features = encode_crops(self.encoder, crops)  # (V B, D)
        return {"crops": features.unflatten(0, (len(crops), len(crops[0]))).transpose(0, 1)}

    def project(self, features: Tensor) -> Tensor:
        """(B, V, D) -> (B, V, dim) unit rows; the head sees all crops at once."""
        rows, views = features.shape[:2]
        embeddings = normalize(self.head(features.transpose(0, 1).flatten(0, 1)), dim=1)  # (V B, dim)
        return embeddings.unflatten(0, (views, rows)).transpose(0, 1)

    @torch.no_grad()
    def assign(self, scores: Tensor, crop: int) -> Tensor:
        """Codes (B, K) of a crop from its scores (B, K), balanced together with the full queue's."""
        queue = self.queues[str(crop)] if self.queues is not None else None
        if queue is not None and queue.full:
            scores = torch.cat([self.prototypes(queue.rows()), scores])  # (L + B, K), with today's prototypes
        if self.codes == "softmax":
            return torch.softmax(scores / self.epsilon, dim=1)
        return sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations)

    def swap(self, embeddings: Tensor) -> Tensor:
        """Equation 2 over multi-crop (section 3.3), from unit rows (B, V, dim)."""
        scores = self.prototypes(embeddings)  # (B, V, K)
        codes = [self.assign(scores[:, crop].detach(), crop)[-len(scores) :] for crop in self.assigned]
        return swapped_prediction(
            scores, torch.stack(codes, dim=1), temperature=self.temperature, assigned=self.assigned
        )

    def loss(self, features: Features) -> dict[str, Any]:
        """Swapped prediction; leaves the embeddings among the features for `after_step` and `pair`."""
        features["embeddings"] = self.project(features["crops"])
        return {"swap": self.swap(features["embeddings"])}

    def after_step(self, features: Features) -> None:
        """The queues take this step's embeddings after they were read, the batch's first row as the newest."""
        if self.queues is not None and self.clock.epoch >= self.queue_starts:
            for crop in self.assigned:
                self.queues[str(crop)].push(features["embeddings"][:, crop].flip(0))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: the official code decays and adapts biases and norms like everything else."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) backbone features; head and prototypes are left behind."""
        return self.encoder(batch["image"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor] | None:
        """Embeddings of the first two crops."""
        embeddings = features.get("embeddings")
        return None if embeddings is None else (embeddings[:, 0], embeddings[:, 1])

    def guess_level(self, rows: int) -> float:
        """ln K, where a collapsed model stays."""
        return math.log(len(self.prototypes.weight))

    @torch.no_grad()
    def measure_prototypes_in_use(self, rows: Rows, *, seed: int = 0) -> float:
        """Share of the prototypes that are the nearest of at least one row; 1 / K after a collapse."""
        preprocess, found = self.eval().preprocess(), set()
        for start in range(0, len(rows), 64):
            samples = [preprocess(row) for row in rows[start : start + 64]]
            features = self.embed({"image": torch.stack([s["image"] for s in samples]).to(self.device)})
            found |= set(self.prototypes(self.project(features[:, None])[:, 0]).argmax(dim=1).tolist())
        return len(found) / len(self.prototypes.weight)
