"""FAC: points of a foreground segment agree across views, and foreground segments leave the background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.correspondence import Correspondence, at_points
from counterpoint.encoders.heads import mlp
from counterpoint.encoders.points import PointEncoder
from counterpoint.losses import foreground_contrast, geometric_contrast
from counterpoint.losses.segment_contrast import segment_means
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.points import PointCloud, PointViews, collate_clouds

__all__ = ["FAC"]

WAYS = (("first", "second"), ("second", "first"))


class FAC(System):
    """Features of 3-D scenes from two views of unlabelled clouds and their segments (arXiv 2303.06388).

    `encoder.per_point` gives the features of points that it is made for.

    Args:
        encoder: backbone, see `PointEncoder`. What is kept after training.
        view: how the two views are drawn and points picked; its `features` follow the encoder's name, its `sampling`
            the positives.
        hidden, dim: channels of the projection of points.
        segment_dim: channels of the segments' features.
        positives: "segments" takes the points of an anchor's foreground segment, "points" only the same point and any
            point for an anchor (PointContrast, arXiv 2007.10985), which then needs foreground=0.
        foreground: weight of the contrast of foreground segments with background; 0 has neither it nor its network.
        hardest: background segments that each foreground segment is set against.
        temperature: of both losses and of the correspondence.
    """

    paper = "FAC: 3D Representation Learning via Foreground Aware Feature Contrast (arXiv 2303.06388)"
    needs = ("points",)
    couples = False
    modality = "points"

    def __init__(
        self,
        encoder: str = "voxel32",
        view: PointViews = PointViews(),  # noqa: B008 (frozen)
        hidden: int = 128,
        dim: int = 128,
        segment_dim: int = 128,
        positives: Literal["segments", "points"] = "segments",
        foreground: float = 1.0,
        hardest: int = 32,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if positives == "points" and foreground:
            raise ValueError("positives='points' has no segments to contrast: set foreground=0")
        if foreground < 0 or hardest < 1 or not temperature > 0:
            raise ValueError("foreground must be at least 0, hardest at least 1 and temperature above 0")
        self.encoder = PointEncoder(encoder)
        sampling: Literal["segments", "matched"] = "matched" if positives == "points" else "segments"
        self.view = replace(view, features=self.encoder.features, sampling=sampling)
        self.positives, self.foreground, self.hardest, self.temperature = positives, foreground, hardest, temperature
        self.projector = mlp(self.encoder.dim, hidden, dim)
        if foreground:
            self.correspondence = Correspondence(dim, segment_dim, temperature=temperature)

    def views(self) -> PointViews:
        """Two views of a scene with the same numbers of segments."""
        return self.view

    def preprocess(self) -> PointCloud:
        """The whole scene."""
        view = self.view
        return PointCloud(view.features, origin=view.origin, max_points=view.max_points)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Clouds of unequal length are padded."""
        return collate_clouds(samples)

    def encode(self, batch: Batch) -> Features:
        """Of each view: `points` (B, P, C), `parts` (B, P, C'), their `group` (B, P) (-1: none) and `asked` (B, P)."""
        features = {"foreground_share": batch["foreground_share"]}
        for view in ("first", "second"):
            cloud, picks = batch[view], batch[f"{view}_picks"]
            places = cloud["xyz"].take_along_dim(picks.unsqueeze(2), dim=1)  # (B, P, 3)
            found = self.encoder.at(self.encoder.volume(cloud), places)  # (B, P, D)
            there = batch[f"{view}_source"] >= 0
            features[f"{view}_points"] = at_points(self.projector, found, there)
            same_point = self.positives == "points"
            features[f"{view}_group"] = batch[f"{view}_source" if same_point else f"{view}_segment"]
            features[f"{view}_asked"] = there if same_point else batch[f"{view}_foreground"]
        if self.foreground:
            given = [features[f"{view}_points"] for view in ("first", "second")]
            valid = [features[f"{view}_group"] >= 0 for view in ("first", "second")]
            features["first_parts"], features["second_parts"] = self.correspondence(*given, *valid)
        return features

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Both directions of both contrasts: means over anchors, and over foreground segments, of all scenes."""
        terms: dict[str, Tensor | Term] = {}
        guess = math.log(features["first_group"].shape[1])
        for view, other in WAYS:
            total, count = geometric_contrast(
                normalize(features[f"{view}_points"], dim=2),
                normalize(features[f"{other}_points"], dim=2),
                features[f"{view}_group"],
                features[f"{other}_group"],
                features[f"{view}_asked"],
                temperature=self.temperature,
            )
            terms[f"geometry_{view}"] = Term(total, count, guess=guess, weight=0.5)
        if self.foreground:
            kinds, parts = self.segments(features, "parts")
            for view, other in WAYS:
                total, count = foreground_contrast(
                    normalize(parts[view], dim=2),
                    normalize(parts[other], dim=2),
                    kinds,
                    hardest=self.hardest,
                    temperature=self.temperature,
                )
                terms[f"foreground_{view}"] = Term(total, count, weight=0.5 * self.foreground)
        share = features["foreground_share"]  # logged; 5 to 30 % is usual outdoors
        terms["foreground_share"] = Term(share.sum().detach(), float(len(share)), weight=0.0)
        return terms

    def segments(self, features: Features, part: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Kinds (B, S): 1 foreground, 0 background, -1 not in both views; and for each view the means (B, S, C)."""
        count = 1 + max(int(features[f"{view}_group"].max()) for view, _ in WAYS)
        means, there = {}, []
        for view, _ in WAYS:
            group = features[f"{view}_group"]
            means[view], sizes = segment_means(features[f"{view}_{part}"], group, max(count, 1))
            there.append(sizes > 0)  # (B, S)
        asked = features["first_asked"].unsqueeze(2).to(means["first"])  # all points of a segment agree
        kinds = segment_means(asked, features["first_group"], max(count, 1))[0].squeeze(2) > 0.5
        return torch.where(there[0] & there[1], kinds.long(), -1), means

    def embed(self, batch: Batch) -> Tensor:
        """(B, D): mean of the backbone's features of the points."""
        return self.encoder(batch["points"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor] | None:
        """Foreground segments of both views, or the points that both have."""
        if self.positives == "points":
            there = features["first_asked"] & features["second_asked"]
            return features["first_points"][there], features["second_points"][there]
        kinds, means = self.segments(features, "points")
        return means["first"][kinds == 1], means["second"][kinds == 1]
