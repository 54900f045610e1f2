"""A memory of embeddings that are grouped into clusters."""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.losses import sinkhorn

__all__ = ["ClusterMemory", "Distance", "relaxed_sinkhorn"]

Distance = Literal["cosine", "euclidean", "euclidean_released"]


def relaxed_sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Sinkhorn codes (N, K); `epsilon` grows by 0.1 until exp(scores / epsilon) can be normalised.

    `losses.sinkhorn` needs no such guard, but BECLR's configurations set an epsilon (1e-5) that only the guard makes
    soft enough (arXiv 2402.02444, official code).
    """
    while True:
        total = torch.exp(scores / epsilon).sum()
        if bool(torch.isfinite(total) & (total > 0)):
            return sinkhorn(scores, epsilon=epsilon, iterations=iterations)
        epsilon += 0.1


class ClusterMemory(nn.Module):
    """Ring of embeddings, a cluster for each, and a prototype for each cluster (DyCE, arXiv 2402.02444).

    A plain ring until it is full for the first time; then k-means makes clusters, and every later batch is spread
    over them by optimal transport before the prototypes are averaged anew. Rows given to it are those of all
    processes. Where a batch does not fit before the end of the ring its last rows are dropped and the ring begins
    anew, so a `size` of a multiple of the batch plus 1 loses next to nothing.

    Args:
        size: rows kept.
        dim: numbers a row.
        clusters: how many.
        distance: "cosine"; "euclidean" (of unit rows, nearer is better); "euclidean_released" prefers the *far*
            prototypes, as the official code does.
        unit: rows and prototypes are brought to unit length before the Euclidean distances.
        epsilon: entropy of the assignment; grows where exp() overflows.
        iterations: of Sinkhorn.
        momentum: share of its old value that a prototype keeps.

    Attributes:
        bank: (size, dim) buffer, rows as they came.
        labels: (size,) int64 buffer, the cluster of each row; 0 before there are clusters.
        prototypes: (clusters, dim) buffer.
        pointer: 0-d int64 buffer, the place that the next row is written to.
        clustered: 0-d int64 buffer, 1 once the memory has been full and has clusters.

    Raises:
        ValueError: sizes below 1, more clusters than rows, an unknown distance; rows of another shape, or not finite.
    """

    bank: Tensor
    labels: Tensor
    prototypes: Tensor
    pointer: Tensor
    clustered: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        clusters: int,
        *,
        distance: Distance = "cosine",
        unit: bool = True,
        epsilon: float = 0.05,
        iterations: int = 10,
        momentum: float = 0.0,
    ) -> None:
        super().__init__()
        if dim < 1 or not 1 <= clusters <= size:
            raise ValueError(
                f"a memory needs dim >= 1 and 1 <= clusters <= size, got size={size}, dim={dim}, clusters={clusters}"
            )
        if distance not in get_args(Distance):
            raise ValueError(f"distance must be one of {', '.join(get_args(Distance))}, got {distance!r}")
        self.distance, self.unit, self.momentum = distance, unit, momentum
        self.epsilon, self.iterations = epsilon, iterations
        self.register_buffer("bank", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("prototypes", torch.zeros(clusters, dim))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("clustered", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Write (N, dim) rows, detached; assign them once there are clusters, make clusters when the ring is full."""
        if rows.dim() != 2 or rows.shape[1] != self.bank.shape[1]:
            raise ValueError(f"rows must have shape (N, {self.bank.shape[1]}), got {tuple(rows.shape)}")
        rows = rows.detach().to(self.bank)
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("rows must be finite, but some hold NaN or infinity")
        labels = self.assign(rows) if self.clustered else self.labels.new_zeros(len(rows))
        first = int(self.pointer)
        end = min(first + len(rows), len(self.bank))
        self.bank[first:end], self.labels[first:end] = rows[: end - first], labels[: end - first]
        self.pointer.fill_(end % len(self.bank))
        if self.clustered:
            self._average(self.bank, self.momentum)
        elif end == len(self.bank):
            self.clustered.fill_(1)
            self.cluster()

    def pushed(self, rows: Tensor) -> ClusterMemory:
        """The memory as `push` would leave it; this one stays as it is."""
        after = copy.deepcopy(self)
        after.push(rows)
        return after

    def enhance(self, rows: Tensor, count: int) -> Tensor:
        """Append to each view its rows' neighbours: (2 B, dim) -> (2 B (1 + count), dim).

        Of each view first the unit rows, with gradient, then for row after row its `count` neighbours, nearest first,
        as the memory holds them. A memory that has just taken the rows may give a row itself.
        """
        parts = []
        for view in rows.chunk(2):
            parts += [normalize(view, dim=1), self.bank[self.neighbours(view, count).flatten()]]
        return torch.cat(parts)

    @torch.no_grad()
    def assign(self, rows: Tensor) -> Tensor:
        """(N, dim) -> (N,) clusters by optimal transport: every cluster takes about the same share of the rows."""
        left, right = rows, self.prototypes
        if self.unit or self.distance == "cosine":
            left, right = normalize(left, dim=1), normalize(right, dim=1)
        if self.distance == "cosine":
            scores = left @ right.T  # (N, K)
        else:
            scores = torch.cdist(left, right)
            scores = scores if self.distance == "euclidean_released" else -scores
        return relaxed_sinkhorn(scores, epsilon=self.epsilon, iterations=self.iterations).argmax(dim=1)

    @torch.no_grad()
    def cluster(self) -> None:
        """New clusters by k-means on the unit rows of the bank; nothing before the bank has been full."""
        from sklearn.cluster import KMeans

        if not self.clustered:
            return
        rows = normalize(self.bank, dim=1)
        found = KMeans(len(self.prototypes), n_init=10, random_state=0).fit(rows.cpu().numpy())
        self.labels.copy_(torch.from_numpy(found.labels_))
        self.prototypes.copy_(torch.from_numpy(found.cluster_centers_))
        self._average(rows, 0.0)  # in our own order of summation: the same whatever the number of threads

    def _average(self, rows: Tensor, momentum: float) -> None:
        """Move each prototype to the mean of its members; one without members stays."""
        counts = torch.bincount(self.labels, minlength=len(self.prototypes))[:, None]  # (K, 1)
        sums = torch.zeros_like(self.prototypes).index_add_(0, self.labels, rows)
        moved = (1 - momentum) * sums / counts.clamp(min=1) + momentum * self.prototypes
        self.prototypes.copy_(torch.where(counts > 0, moved, self.prototypes))

    @torch.no_grad()
    def neighbours(self, rows: Tensor, count: int) -> Tensor:
        """(N, dim) -> (N, count) places in `bank`, nearest first, by cosine within the row's own cluster.

        The cluster is that of the nearest prototype. One with `count` members or fewer gives way to the whole memory.
        Works on N x size similarities.
        """
        rows = normalize(rows.detach().to(self.bank), dim=1)
        nearest = (rows @ normalize(self.prototypes, dim=1).T).argmax(dim=1)  # (N,)
        members = torch.bincount(self.labels, minlength=len(self.prototypes))[nearest]  # (N,)
        outside = (self.labels[None] != nearest[:, None]) & (members > count)[:, None]  # (N, size)
        similarity = rows @ normalize(self.bank, dim=1).T
        return similarity.masked_fill(outside, -torch.inf).topk(count, dim=1).indices

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        size, dim = self.bank.shape
        return f"size={size}, dim={dim}, clusters={len(self.prototypes)}, distance={self.distance}"
