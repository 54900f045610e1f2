"""PixPro: cells of two crops that show the same spot agree, one of them smoothed by its similar cells."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.image import ImageEncoder
from counterpoint.memory import MomentumEncoder
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.image import Resize
from counterpoint.views.located import LocatedViews

__all__ = [
    "PixPro",
    "Propagation",
    "conv_mlp",
    "cell_centres",
    "momentum_at",
    "pixel_consistency",
    "pixel_contrast",
    "positive_cells",
]


def cell_centres(place: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Places (N, 4) -> centres (N, h * w, 2) as x, y, row by row, and diagonals (N,) of a cell.

    Cells of a mirrored crop have negative width, so that their centres run from right to left as its pixels do.
    """
    x0, y0, x1, y1 = place.unsqueeze(2).unbind(1)  # (N, 1) each
    cell_width, cell_height = (x1 - x0) / width, (y1 - y0) / height
    x = x0 + (torch.arange(width, device=place.device) + 0.5) * cell_width  # (N, w)
    y = y0 + (torch.arange(height, device=place.device) + 0.5) * cell_height  # (N, h)
    centres = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return centres.flatten(1, 2), torch.hypot(cell_width, cell_height)[:, 0]


def positive_cells(first: Tensor, second: Tensor, *, size: tuple[int, int], ratio: float) -> Tensor:
    """Places (N, 4), (N, 4) -> mask (N, P, P): centres nearer than `ratio` times the larger diagonal (section 3.1)."""
    (ours, our_diagonal), (theirs, their_diagonal) = cell_centres(first, *size), cell_centres(second, *size)
    offsets = ours[:, :, None] - theirs[:, None]  # (N, P, P, 2); written out, as `cdist` may round through a product
    distances = torch.hypot(offsets[..., 0], offsets[..., 1])
    return distances / torch.maximum(our_diagonal, their_diagonal)[:, None, None] < ratio


def pixel_consistency(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    """-2 times the mean cosine of positive cells, in every image by itself and then over all images (equation 5).

    An image without a positive adds 0 and still counts. In [-2, 2]; 0 for unrelated features.

    Args:
        query, key: (N, C, h, w), unit vectors at every cell.
        positives: (N, P, P) of bool, query cell by key cell.
    """
    cosines = torch.einsum("ncp,ncq->npq", query.flatten(2), key.flatten(2))  # (N, P, P)
    weights = positives.to(cosines.dtype)
    return -2 * ((cosines * weights).sum(dim=(1, 2)) / (weights.sum(dim=(1, 2)) + 1e-6)).mean()


def pixel_contrast(query: Tensor, key: Tensor, positives: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of -log(share of the positives) over query cells that have one, and their number (PixContrast, equation 2).

    The candidates of a cell are all cells of the other view of its own image.

    Args:
        query, key: (N, C, h, w), any length.
        positives: (N, P, P) of bool.
        temperature: above 0.
    """
    query, key = normalize(query.flatten(2), dim=1), normalize(key.flatten(2), dim=1)
    logits = torch.einsum("ncp,ncq->npq", query, key) / temperature
    counted = positives.any(dim=2)  # (N, P)
    logits, positives = logits[counted], positives[counted]  # (R, P)
    found = logits.masked_fill(~positives, -math.inf).logsumexp(dim=1)
    return (logits.logsumexp(dim=1) - found).sum(), counted.sum()


def momentum_at(progress: float, start: float) -> float:
    """From `start` to 1 along a cosine, with `progress` from 0 to 1."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def conv_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The same two-layer network at every cell, with BatchNorm over all of them."""
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, outputs, 1))


class Propagation(nn.Module):
    """Pixel propagation module (section 3.2, equations 3 and 4): a cell becomes a sum over the cells that resemble it.

    out_i = sum_j max(cos(x_i, x_j), clamp)^gamma g(x_j), g of unit length; no softmax and no division by the sum.

    Args:
        dim: channels.
        gamma: sharpness.
        clamp: smallest similarity.
        layers: of g: 0 is the identity, 1 a linear map, 2 an MLP.
    """

    def __init__(self, dim: int, *, gamma: float, clamp: float, layers: int) -> None:
        super().__init__()
        if layers not in (0, 1, 2):
            raise ValueError(f"transform_layers must be 0, 1 or 2, got {layers}")
        maps = (nn.Identity(), nn.Conv2d(dim, dim, 1), conv_mlp(dim, dim, dim))
        self.gamma, self.clamp, self.transform = gamma, clamp, maps[layers]

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) of any length -> the same shape, not yet normalised."""
        unit, values = normalize(features, dim=1).flatten(2), normalize(self.transform(features), dim=1).flatten(2)
        similarity = torch.einsum("ncp,ncq->npq", unit, unit).clamp(min=self.clamp)  # (N, P, P)
        if self.gamma < 1:
            similarity = similarity + 1e-6  # its root has no slope at 0
        return torch.einsum("npq,ncq->ncp", similarity**self.gamma, values).unflatten(2, features.shape[2:])


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
