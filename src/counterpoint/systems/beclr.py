"""BECLR: a contrastive batch made larger with near neighbours from clustered memories, for few-shot features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from counterpoint.encoders.heads import deep_projector, mlp
from counterpoint.encoders.image import ImageEncoder
from counterpoint.losses.attraction_repulsion import memory_loss, negative_loss, positive_loss
from counterpoint.memory import MomentumEncoder
from counterpoint.memory.clusters import ClusterMemory, Distance
from counterpoint.memory.momentum import momentum_at
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize
from counterpoint.views.masked import MaskedViews

__all__ = ["BECLR"]


class BECLR(System):
    """Few-shot features from unlabelled pictures, contrasted with neighbours out of clustered memories (2402.02444).

    Args:
        encoder: backbone, see `ImageEncoder`; what is kept after training.
        pictures: size and distortions of the two views, and how much of them is hidden from the student.
        dim: width of projections, predictions and memories.
        hidden: width of the predictor's bottleneck.
        neighbours: rows from a memory that join each row of the batch; 0 has no memories: plain two-view learning.
        starts: epoch from which they join.
        memory: rows of each of the three memories; a multiple of two batches, plus 1.
        clusters: of each memory.
        recluster: epochs between runs of k-means.
        distance: of row and prototype: "cosine", "euclidean", or "euclidean_released", which takes the far ones as
            the official code does.
        epsilon: entropy of the assignment to clusters.
        iterations: of Sinkhorn in it.
        prototype_momentum: share of its old value that a prototype keeps.
        temperature: of the negatives.
        negatives: weight of the negatives.
        pairs: whose projections repel: "SS" the student's of both views, "ST" the student's of view 1 and the
            teacher's of view 2, "TT" the teacher's.
        threshold: with it the rows repel the memory of projections instead of each other, as far as their cosine is
            at most this.
        momentum: of the teacher at the start; it rises to 1 along a cosine.
    """

    paper = "BECLR: Batch Enhanced Contrastive Few-Shot Learning (arXiv 2402.02444)"

    period: Tensor

    def __init__(
        self,
        encoder: str = "resnet18",
        pictures: MaskedViews = MaskedViews(),  # noqa: B008 (frozen)
        dim: int = 512,
        hidden: int = 128,
        neighbours: int = 5,
        starts: int = 60,
        memory: int = 8193,
        clusters: int = 200,
        recluster: int = 60,
        distance: Distance = "cosine",
        epsilon: float = 0.05,
        iterations: int = 10,
        prototype_momentum: float = 0.0,
        temperature: float = 2.0,
        negatives: float = 0.1,
        pairs: Literal["SS", "ST", "TT"] = "SS",
        threshold: float | None = None,
        momentum: float = 0.995,
    ) -> None:
        super().__init__()
        if threshold is not None and not neighbours:
            raise ValueError("threshold asks for negatives out of a memory, and neighbours=0 has none")
        self.encoder = ImageEncoder(encoder)
        self.projector, self.predictor = deep_projector(self.encoder.dim, dim), mlp(dim, hidden, dim)
        self.teacher = MomentumEncoder(nn.Sequential(self.encoder, self.projector), momentum)
        settings: dict[str, Any] = {"distance": distance, "epsilon": epsilon, "iterations": iterations}
        self.memories = nn.ModuleDict()
        for name in ("target", "prediction", "projection") if neighbours else ():
            self.memories[name] = ClusterMemory(memory, dim, clusters, momentum=prototype_momentum, **settings)
        self.register_buffer("period", torch.zeros((), dtype=torch.int64))  # runs of k-means that were due
        self.pictures, self.neighbours, self.starts, self.recluster = pictures, neighbours, starts, recluster
        self.temperature, self.negatives, self.pairs = temperature, negatives, pairs
        self.threshold = threshold

    def views(self) -> MaskedViews:
        """Two views and their masks."""
        return self.pictures

    def preprocess(self) -> Resize:
        """The whole picture."""
        return Resize(self.pictures.size, self.pictures.mean, self.pictures.std)

    def _memories(self) -> dict[str, ClusterMemory]:
        return {name: memory for name, memory in self.memories.items() if isinstance(memory, ClusterMemory)}

    def before_step(self) -> None:
        """New clusters when an epoch that asks for them begins."""
        due = self.clock.epoch // self.recluster
        if due > int(self.period):
            for memory in self._memories().values():
                memory.cluster()
        self.period.fill_(due)

    def encode(self, batch: Batch) -> Features:
        """`target`, `projection`, `prediction` (B, 2, dim): the teacher sees whole views, the student masked ones."""
        names = ("first", "second")
        views = torch.cat([batch[name] for name in names])  # (2 B, 3, s, s): BatchNorm sees both views at once
        seen = torch.cat([batch[f"{name}_seen"] for name in names])
        seen = seen.repeat_interleave(self.pictures.patch, 2).repeat_interleave(self.pictures.patch, 3)
        projection = self.projector(self.encoder(views * seen))
        rows = {"target": self.teacher(views), "projection": projection, "prediction": self.predictor(projection)}
        return {name: value.unflatten(0, (2, -1)).transpose(0, 1) for name, value in rows.items()}

    def loss(self, features: Features) -> dict[str, Any]:
        """Both terms, on the enhanced batch once the memories have clusters."""
        rows, bank = _by_view(features), None
        if self.neighbours and self.clock.epoch >= self.starts and all(m.clustered for m in self._memories().values()):
            # As `after_step` will leave them: each row is among the candidates.
            after = {name: self._memories()[name].pushed(z) for name, z in rows.items()}
            rows = {name: after[name].enhance(z, self.neighbours) for name, z in rows.items()}
            bank = None if self.threshold is None else after["projection"].bank
        return self.terms(rows, bank)

    def terms(self, rows: Mapping[str, Tensor], bank: Tensor | None = None) -> dict[str, Any]:
        """Both terms from (2 n, dim) of each kind, view 1 above view 2; negatives from the `bank` (M, dim) if given."""
        kinds = ("projection" if kind == "S" else "target" for kind in self.pairs)
        repelled = torch.cat([rows[kind].chunk(2)[view] for view, kind in enumerate(kinds)])
        if bank is None or self.threshold is None:
            negative = negative_loss(repelled, temperature=self.temperature)
        else:
            negative = memory_loss(repelled, bank, threshold=self.threshold, temperature=self.temperature)
        positive = positive_loss(rows["prediction"], rows["target"])
        return {"positive": positive, "negative": Term.mean(negative, weight=self.negatives)}

    def after_step(self, features: Features) -> None:
        """The memories take the step's rows, and the teacher follows the student."""
        for name, rows in _by_view(features).items() if self.neighbours else ():
            self._memories()[name].push(rows)
        rate = momentum_at(self.clock.progress, self.teacher.momentum)
        self.teacher.update(nn.Sequential(self.encoder, self.projector), rate)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) backbone features, without the projector."""
        return self.encoder(batch["image"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """The student's projections of the two views."""
        first, second = features["projection"].unbind(1)
        return first, second

    def guess_level(self, rows: int) -> float:
        """0: of unrelated directions both terms are about 0."""
        return 0.0


def _by_view(features: Features) -> dict[str, Tensor]:
    """(B, 2, dim) -> (2 B, dim), view 1 above view 2."""
    return {name: value.transpose(0, 1).flatten(0, 1) for name, value in features.items()}
