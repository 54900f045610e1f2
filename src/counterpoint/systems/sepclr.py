"""SepCLR: two encoders for two data sets, one for what both show and one for what the target alone shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import Rows
from counterpoint.encoders.spaces import Space
from counterpoint.geometry import alignment, uniformity
from counterpoint.losses import attribute_alignment, joint_entropy
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize, TwoViews
from counterpoint.views.sources import SourceViews

__all__ = ["BANDWIDTH", "SepCLR"]

BANDWIDTH = 0.025
"""Of continuous attributes, in their squared units; also the temperature of the absence of their coordinates."""


class SepCLR(System):
    """Common and salient factors of a background and a target data set, by InfoMax and k-JEM (arXiv 2402.11928).

    Args:
        encoder: of both spaces, each with weights of its own; see `ImageEncoder`.
        pictures: size and distortions of the two views.
        common_dim, salient_dim: lengths of the representations.
        hidden: width of the projectors.
        target: value of the column `source` that marks the rows of the target; all others are background.
        temperature: of every kernel, and 2 * temperature divides squared distances of alignment.
        salient_weight: of the InfoMax terms of the salient space.
        absence_weight: of drawing the background's salient heads to 0 (the paper's information-less constraint).
        joint_entropy_weight: of k-JEM, which makes one space say little about the other.
        continuous, discrete: columns with attributes of target rows, as numbers. With any, salient coordinate k follows
            attribute k (first all continuous ones), `salient_dim` must be their number, and `salient_weight` weighs
            absence as well, in the place of `absence_weight`.
    """

    paper = "Separating common from salient patterns with Contrastive Representation Learning (arXiv 2402.11928)"
    needs = ("image", "source")

    def __init__(
        self,
        encoder: str = "resnet18",
        pictures: TwoViews = TwoViews(  # noqa: B008 (frozen)
            size=24, scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur=0.0
        ),
        common_dim: int = 32,
        salient_dim: int = 32,
        hidden: int = 128,
        target: str = "target",
        temperature: float = 0.5,
        salient_weight: float = 1000.0,
        absence_weight: float = 1000.0,
        joint_entropy_weight: float = 10.0,
        continuous: tuple[str, ...] = (),
        discrete: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        attributes = (*continuous, *discrete)
        if attributes and salient_dim != len(attributes):
            raise ValueError(f"salient_dim must be the number of attributes, {len(attributes)}, got {salient_dim}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.common, self.salient = Space(encoder, common_dim, hidden), Space(encoder, salient_dim, hidden)
        self.pictures, self.target, self.temperature = pictures, target, temperature
        self.salient_weight, self.absence_weight = salient_weight, absence_weight
        self.joint_entropy_weight = joint_entropy_weight
        self.attributes, self.continuous = attributes, len(continuous)

    def views(self) -> SourceViews:
        """Two views, the kind of row, its attributes."""
        return SourceViews(self.pictures, self.target, self.attributes)

    def preprocess(self) -> Resize:
        """The whole picture."""
        return Resize(self.pictures.size, self.pictures.mean, self.pictures.std)

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """The names of the two data sets; refuses rows that are all of one."""
        return {"sources": self.views().names(rows)}

    def encode(self, batch: Batch) -> Features:
        """Heads `common` and `salient` (B, 2, dim) of both views; `target` (B,) bool; `attributes` (B, K)."""
        features = {"target": batch["target"], "attributes": batch["attributes"]}
        for name, space in (("common", self.common), ("salient", self.salient)):
            heads = [space.heads(batch[view]) for view in ("first", "second")]  # BatchNorm: view by view
            features[name] = torch.stack(heads, dim=1)
        return features

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Common InfoMax on unit heads of all rows, the salient terms, and k-JEM between the spaces."""
        target = features["target"]
        common = [normalize(heads, dim=1) for heads in features["common"].unbind(1)]
        salient = list(features["salient"].unbind(1))  # Euclidean
        # The salient teacher: what the background lacks is the point 0, which targets are pushed away from as well.
        taught = [heads * target[:, None].to(heads) for heads in salient]
        entropy = _mean(
            [joint_entropy(c, t, temperature=self.temperature) for c, t in zip(common, taught, strict=True)]
        )
        # With known attributes the official scripts weigh uniformity 1 and not 2.
        weight = 1.0 if self.attributes else 2.0
        return {
            "common_alignment": alignment(*common) / (2 * self.temperature),
            "common_uniformity": Term.mean(_mean([self._uniformity(heads) for heads in common]), weight=weight),
            **(self._follow(salient, taught, features) if self.attributes else self._infomax(salient, taught, target)),
            "joint_entropy": Term.mean(-entropy, weight=self.joint_entropy_weight),
        }

    def _uniformity(self, rows: Tensor) -> Tensor:
        return uniformity(rows, temperature=1 / (2 * self.temperature))

    def _infomax(self, salient: list[Tensor], taught: list[Tensor], target: Tensor) -> dict[str, Tensor | Term]:
        """Alignment of the target, uniformity of all rows of the teacher, absence in the background."""
        apart = (salient[0] - salient[1]).square().sum(1)[target]
        norms = _mean([heads.square().sum(1)[~target] for heads in salient])
        spread, both = _mean([self._uniformity(rows) for rows in taught]), 2 * self.temperature
        return {
            "salient_alignment": Term(apart.sum() / both, target.sum(), weight=self.salient_weight),
            "salient_uniformity": Term.mean(spread, weight=2 * self.salient_weight),
            "absence": Term(norms.sum() / both, (~target).sum(), weight=self.absence_weight),
        }

    def _follow(self, salient: list[Tensor], taught: list[Tensor], features: Features) -> dict[str, Tensor | Term]:
        """The same where attributes are known: coordinate k of target rows follows attribute k (supervised variant)."""
        target, known, count = features["target"], features["attributes"], len(self.attributes)
        parts = [(slice(0, self.continuous), BANDWIDTH), (slice(self.continuous, count), None)]
        followed, absent, width = salient[0].new_zeros(()), salient[0].new_zeros(()), len(salient)
        for heads in salient:
            for part, bandwidth in parts:
                share = (part.stop - part.start) / count / width
                if share and bool(target.any()):
                    found = attribute_alignment(heads[target, part], known[target, part], bandwidth=bandwidth)
                    followed = followed + share * found
                squares = heads[~target, part].square().sum()
                absent = absent + squares / (4 * (bandwidth or self.temperature) * count * width)
        spread = _mean([self._uniformity(rows[:, [k]]) for rows in taught for k in range(count)])
        return {
            "attribute_alignment": Term.mean(followed, weight=self.salient_weight),
            "salient_uniformity": Term.mean(spread, weight=self.salient_weight),
            "absence": Term(absent, (~target).sum(), weight=self.salient_weight),
        }

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`common` (B, common_dim) and `salient` (B, salient_dim): representations, without the projectors."""
        return {"common": self.common(batch["image"]), "salient": self.salient(batch["image"])}

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """Common heads of the two views."""
        first, second = features["common"].unbind(1)
        return first, second


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)
