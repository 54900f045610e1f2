"""PixPro: cells of two crops that show the same spot agree, one of them smoothed by its similar cells."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.heads import conv_mlp
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.propagation import Propagation
from counterpoint.losses.pixel_consistency import pixel_consistency, pixel_contrast, positive_cells
from counterpoint.memory import MomentumEncoder
from counterpoint.memory.momentum import momentum_at
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize
from counterpoint.views.located import LocatedViews

__all__ = ["PixPro"]


class PixPro(System):
    """Dense features from the agreement of cells that show the same spot in two crops (arXiv 2011.10043).

    `encoder.maps` gives the features (B, C, h, w) that it is made for.

    Args:
        encoder: backbone, see `ImageEncoder`; `?stride=8` makes its map finer. What is kept after training.
        view: size, crop and distortions of the two views.
        hidden, dim: channels of the projection, and of all that follows it.
        pixel: "propagation" is PixPro, "consistency" the same without the propagation module, "contrast" PixContrast,
            "none" leaves the instance branch alone.
        instance: weight of the instance branch (BYOL on pooled projections); 0 has none.
        gamma, clamp, transform_layers: of the propagation module, see `Propagation`.
        ratio: cells nearer than this many cell diagonals are positives.
        temperature: of PixContrast.
        momentum: of the key networks at the start; it rises to 1.
    """

    paper = (
        "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning "
        "(arXiv 2011.10043)"
    )
    couples = False

    def __init__(
        self,
        encoder: str = "resnet50",
        view: LocatedViews = LocatedViews(),  # noqa: B008 (frozen)
        hidden: int = 4096,
        dim: int = 256,
        pixel: Literal["propagation", "consistency", "contrast", "none"] = "propagation",
        instance: float = 0.0,
        gamma: float = 2.0,
        clamp: float = 0.0,
        transform_layers: int = 1,
        ratio: float = 0.7,
        temperature: float = 0.3,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if pixel == "none" and instance == 0:
            raise ValueError("pixel='none' leaves nothing to learn from: set instance above 0")
        self.encoder = ImageEncoder(encoder)
        self.slow_encoder = MomentumEncoder(self.encoder, momentum)
        self.pixel, self.instance, self.view = pixel, instance, view
        self.ratio, self.temperature = ratio, temperature
        if pixel != "none":
            self.projector = conv_mlp(self.encoder.dim, hidden, dim)
            self.slow_projector = MomentumEncoder(self.projector, momentum)
        if pixel == "propagation":
            self.propagate = Propagation(dim, gamma=gamma, clamp=clamp, layers=transform_layers)
        if instance:
            self.instance_projector = conv_mlp(self.encoder.dim, hidden, dim)
            self.slow_instance_projector = MomentumEncoder(self.instance_projector, momentum)
            self.predictor = conv_mlp(dim, hidden, dim)

    def views(self) -> LocatedViews:
        """Two crops and their places."""
        return self.view

    def preprocess(self) -> Resize:
        """The whole picture."""
        return Resize(self.view.size, self.view.mean, self.view.std)

    def before_step(self) -> None:
        """The key networks move first, and then see the batch."""
        for name, module in self.named_children():
            if isinstance(module, MomentumEncoder):
                followed = getattr(self, name.removeprefix("slow_"))
                module.update(followed, momentum_at(self.clock.progress, module.momentum))

    def encode(self, batch: Batch) -> Features:
        """For each view: its place (B, 4), `pixel` and `pixel_key` (B, C, h, w), `instance` and its key (B, C)."""
        features = {}
        for view in ("first", "second"):
            cells = self.encoder.maps(batch[view])  # (B, D, h, w); one call a view, as BatchNorm sees one at a time
            with torch.no_grad():
                slow_cells = self.slow_encoder.module.maps(batch[view])  # type: ignore[operator]
            features[f"{view}_place"] = batch[f"{view}_place"]
            if self.pixel != "none":
                query = self.projector(cells)
                query = self.propagate(query) if self.pixel == "propagation" else query
                features[f"{view}_pixel"] = normalize(query, dim=1)
                features[f"{view}_pixel_key"] = normalize(self.slow_projector(slow_cells), dim=1)
            if self.instance:
                query, key = self.predictor(self.instance_projector(cells)), self.slow_instance_projector(slow_cells)
                features[f"{view}_instance"] = normalize(query.mean(dim=(2, 3)), dim=1)
                features[f"{view}_instance_key"] = normalize(key.mean(dim=(2, 3)), dim=1)
        return features

    def positives(self, features: Features) -> Tensor:
        """(B, P, P): which cells of the first view show what which of the second do."""
        height, width = features["first_pixel"].shape[2:]
        places = features["first_place"], features["second_place"]
        return positive_cells(*places, size=(height, width), ratio=self.ratio)

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Both directions of every branch; a mean over images, or over cells that have a positive for PixContrast."""
        terms: dict[str, Tensor | Term] = {}
        if self.pixel != "none":
            mask = self.positives(features)
            ways = ("first", "second", mask), ("second", "first", mask.mT)
            pairs = [(features[f"{a}_pixel"], features[f"{b}_pixel_key"], positives) for a, b, positives in ways]
            if self.pixel == "contrast":
                for name, pair in zip(("first", "second"), pairs, strict=True):
                    terms[name] = Term(*pixel_contrast(*pair, temperature=self.temperature), weight=0.5)
            else:
                terms["pixel"] = pixel_consistency(*pairs[0]) + pixel_consistency(*pairs[1])
        if self.instance:
            cosines = [
                (features[f"{a}_instance"] * features[f"{b}_instance_key"]).sum(dim=1)  # (B,)
                for a, b in (("first", "second"), ("second", "first"))
            ]
            terms["instance"] = Term.mean(-2 * (cosines[0] + cosines[1]).mean(), weight=self.instance)
        return terms

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) pooled backbone features."""
        return self.encoder(batch["image"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor] | None:
        """One positive pair of cells of every picture that has one."""
        if self.pixel == "none":
            return features["first_instance"], features["second_instance_key"]
        mask = self.positives(features).flatten(1)  # (B, P * P)
        rows, cells = mask.any(dim=1).nonzero()[:, 0], features["first_pixel"].flatten(2)
        found = mask[rows].int().argmax(dim=1)  # (R,)
        first, second = found // cells.shape[2], found % cells.shape[2]
        return cells[rows, :, first], features["second_pixel_key"].flatten(2)[rows, :, second]
