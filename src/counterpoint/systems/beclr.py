"""BECLR: a contrastive batch made larger with near neighbours from clustered memories, for few-shot features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.data import Row
from counterpoint.encoders.image import ImageEncoder
from counterpoint.memory import MomentumEncoder
from counterpoint.memory.clusters import ClusterMemory, Distance
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize, TwoViews

__all__ = [
    "BECLR",
    "MaskedViews",
    "enhance",
    "memory_loss",
    "negative_loss",
    "positive_loss",
    "predictor",
    "projector",
]


@dataclass(frozen=True)
class MaskedViews(TwoViews):
    """Two views of a picture, and which square patches of each the student sees.

    Attributes:
        patch: side of a patch, in pixels.
        masked: share of the patches that is hidden from the student, on average.
        masked_spread: the share is drawn anew for every view from [masked - spread, masked + spread].

    Returns of a call: besides `first` and `second` (3, size, size) their `first_seen` and `second_seen` (1, P, P),
    0 where a patch is hidden and else 1.
    """

    size: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    patch: int = 16
    masked: float = 0.15
    masked_spread: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(f"patch must divide the size {self.size}, got {self.patch}")
        if not 0 <= self.masked_spread <= self.masked or self.masked + self.masked_spread > 1:
            raise ValueError(f"masked +- masked_spread must lie in [0, 1]; got {self.masked} +- {self.masked_spread}")

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> two views with their masks."""
        views, side = super().__call__(row, rng), self.size // self.patch
        for name in ("first", "second"):
            share = self.masked + self.masked_spread * (2 * rng.random() - 1)
            seen = np.ones(side * side, dtype=np.float32)
            seen[rng.permutation(side * side)[: round(share * side * side)]] = 0
            views[f"{name}_seen"] = torch.from_numpy(seen.reshape(1, side, side))
        return views


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


def enhance(memory: ClusterMemory, rows: Tensor, count: int) -> Tensor:
    """Append to each view its rows' neighbours: (2 B, D) -> (2 B (1 + count), D).

    Of each view first the unit rows, with gradient, then for row after row its `count` neighbours, nearest first, as
    the memory holds them. A memory that has just taken the rows may give a row itself.
    """
    parts = []
    for view in rows.chunk(2):
        parts += [normalize(view, dim=1), memory.bank[memory.neighbours(view, count).flatten()]]
    return torch.cat(parts)


def projector(features: int, dim: int) -> nn.Sequential:
    """Three times linear and BatchNorm, with ReLU between."""
    layers: list[nn.Module] = []
    for width in (features, dim, dim):
        layers += [nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def predictor(dim: int, hidden: int) -> nn.Sequential:
    """A bottleneck: linear, BatchNorm, ReLU, linear."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim))


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
        self.projector, self.predictor = projector(self.encoder.dim, dim), predictor(dim, hidden)
        self.teacher = MomentumEncoder(nn.Sequential(self.encoder, self.projector), momentum)
        settings: dict[str, Any] = {"distance": distance, "epsilon": epsilon, "iterations": iterations}
        self.memories = nn.ModuleDict()
        for name in ("target", "prediction", "projection") if neighbours else ():
            self.memories[name] = ClusterMemory(memory, dim, clusters, momentum=prototype_momentum, **settings)
        self.register_buffer("period", torch.zeros((), dtype=torch.int64))  # runs of k-means that were due
        self.pictures, self.neighbours, self.starts, self.recluster = pictures, neighbours, starts, recluster
        self.temperature, self.negatives, self.pairs = temperature, negatives, pairs
        self.threshold, self.momentum = threshold, momentum

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
            rows = {name: enhance(after[name], z, self.neighbours) for name, z in rows.items()}
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
        rate = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * self.clock.progress)) / 2
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
