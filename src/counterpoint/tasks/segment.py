"""Segmentation of point clouds: a linear map from an encoder's features of points to their classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.data import BadRow, Rows
from counterpoint.data.scans import IGNORED, read_points
from counterpoint.encoders.base import Trainable
from counterpoint.encoders.points import PointEncoder
from counterpoint.system import Batch, Features, System, Term, with_own_rate
from counterpoint.views.labelled_points import LabelledPoints, classes_of
from counterpoint.views.points import PointCloud, collate_clouds

__all__ = ["Segment"]

_COUNTED = 200
"""Rows, evenly over the data, whose classes are counted before training."""
_PIECE = 2**18
"""Points whose features are held at a time when a cloud is segmented."""


class Segment(System):
    """Classes of the points of 3-D scans from labelled examples, over any point encoder (weighted cross-entropy).

    Rows have `points` and `mask`, a class number for every point; or files of points that hold classes themselves.

    Args:
        encoder: see `PointEncoder`; `run:PATH` takes a pre-trained one.
        trainable: what of the encoder learns: "all" fine-tunes it, "none" trains the linear map alone.
        view: how training clouds are distorted; its channels follow the encoder.
        balance: a class counts as its frequency to the power of minus this: 0 leaves points equal, 1 classes.
        encoder_rate: learning rate of the encoder as a multiple of the head's.

    Attributes:
        class_names: in the order of the outputs.
    """

    paper = ""
    needs = ("points",)
    couples = False
    modality = "points"
    class_weights: Tensor

    def __init__(
        self,
        encoder: str = "voxel32",
        trainable: Trainable = "all",
        view: LabelledPoints = LabelledPoints(),  # noqa: B008 (frozen)
        balance: float = 0.5,
        encoder_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= balance <= 1:
            raise ValueError(f"balance must be in [0, 1], got {balance}")
        if not encoder_rate > 0:
            raise ValueError(f"encoder_rate must be above 0, got {encoder_rate}: trainable='none' leaves it as it is")
        self.encoder = PointEncoder(encoder, trainable=trainable)
        self.view, self.balance, self.encoder_rate = view, balance, encoder_rate
        self.class_names: list[str] = []
        self.head_weight = nn.Parameter(torch.zeros(0, self.encoder.dim))
        self.head_bias = nn.Parameter(torch.zeros(0))
        self.register_buffer("class_weights", torch.zeros(0))

    def views(self) -> LabelledPoints:
        """A distorted cloud with its classes."""
        return self.view.for_classes(len(self.class_names) or None, self.encoder.features)

    def preprocess(self) -> PointCloud:
        """The whole cloud."""
        settings = self.view.distortion
        return PointCloud(self.encoder.features, origin=settings.origin, max_points=settings.max_points)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Clouds of unequal length are padded."""
        return collate_clouds(samples)

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """Names of the classes, and how often each is found in some of the rows.

        Raises:
            ValueError: fewer than two classes.
        """
        counts = np.zeros(0, dtype=np.int64)
        for index in np.unique(np.linspace(0, len(rows) - 1, min(_COUNTED, len(rows))).round().astype(int)):
            try:
                row = rows[int(index)]
                found = classes_of(row, read_points(row["points"], max_points=self.view.distortion.max_points))
            except BadRow:
                continue  # counted and listed when it is met in training
            found = np.bincount(found[found != IGNORED], minlength=len(counts))
            counts = found + np.pad(counts, (0, len(found) - len(counts)))
        if np.count_nonzero(counts) < 2:
            raise ValueError(f"segmentation needs points of at least two classes, found {np.count_nonzero(counts)}")
        names = rows.class_names or [str(number) for number in range(len(counts))]
        if len(counts) > len(names):
            raise ValueError(f"a mask holds class {len(counts) - 1}, but there are only {len(names)} class names")
        return {"class_names": list(names), "counts": np.pad(counts, (0, len(names) - len(counts))).tolist()}

    def use(self, facts: Mapping[str, Any]) -> None:
        """One output for each class, all zero at first."""
        self.class_names = list(facts["class_names"])
        counts = torch.tensor(facts["counts"], dtype=torch.float64)
        weights = torch.where(counts > 0, (counts / counts.sum()).clamp(min=1e-12) ** -self.balance, 0.0)
        weights = weights / (weights * counts).sum() * counts.sum()  # the mean over points is 1
        like = self.head_weight
        self.class_weights = weights.to(like)
        self.head_weight = nn.Parameter(like.new_zeros(len(counts), self.encoder.dim))
        self.head_bias = nn.Parameter(like.new_zeros(len(counts)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder learns at its own rate."""
        return with_own_rate(super().parameter_groups(), self.encoder.parameters(), self.encoder_rate)

    def head(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        return nn.functional.linear(features, self.head_weight, self.head_bias)

    def encode(self, batch: Batch) -> Features:
        """`scores` (B, N, K), and `label` (B, N), ignored at padding."""
        points = batch["points"]
        label = points["label"].masked_fill(~points["valid"], IGNORED)
        return {"scores": self.head(self.encoder.per_point(points)), "label": label}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Cross-entropy of points, each weighted by its class; a guesser's is the log of the number of classes."""
        scores, label = features["scores"].flatten(0, 1), features["label"].flatten()
        counted = label != IGNORED
        each = nn.functional.cross_entropy(scores[counted], label[counted], reduction="none")  # (P,)
        weights = self.class_weights[label[counted]]
        return {"cross_entropy": Term((weights * each).sum(), weights.sum(), guess=math.log(scores.shape[1]))}

    def embed(self, batch: Batch) -> Tensor:
        """(B, D): mean of the features of the points."""
        return self.encoder(batch["points"])

    def segment(self, points: Mapping[str, Tensor]) -> Tensor:
        """A batch of clouds (see `PointEncoder`) -> class numbers (B, N).

        Clouds wider than the encoder's grid are cut into tiles of its size, the first around the sensor, and each tile
        is moved into the grid; heights are not. Padding gets class 0.
        """
        labels = torch.zeros(points["valid"].shape, dtype=torch.int64)
        with torch.no_grad():
            for cloud in range(len(labels)):
                for members, tile in self._tiles({name: value[cloud] for name, value in points.items()}):
                    volume = self.encoder.volume(tile)
                    for start in range(0, len(members), _PIECE):
                        places = tile["xyz"][:, start : start + _PIECE]
                        found = self.head(self.encoder.at(volume, places))[0].argmax(dim=1)
                        labels[cloud, members[start : start + _PIECE]] = found.cpu()
        return labels

    def _tiles(self, cloud: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Positions (P,) of the points of a tile, and the tile as a batch of one cloud."""
        grid, members = self.encoder.grid, cloud["valid"].cpu().nonzero()[:, 0]
        low, high = (torch.tensor(corner[:2], dtype=torch.float64) for corner in (grid.low, grid.high))
        xyz = cloud["xyz"].cpu()[members]
        number = ((xyz[:, :2].double() - low) / (high - low)).floor()  # (P, 2)
        tiles, inverse = number.unique(dim=0, return_inverse=True)
        for place, shift in enumerate(tiles * (high - low)):
            inside = inverse == place
            moved = xyz[inside] - torch.cat([shift, shift.new_zeros(1)]).to(xyz)
            tile = {"xyz": moved, "valid": torch.ones(len(moved), dtype=torch.bool)}
            if self.encoder.features:
                tile["features"] = cloud["features"].cpu()[members[inside]]
            yield members[inside], {name: value[None].to(self.device) for name, value in tile.items()}
