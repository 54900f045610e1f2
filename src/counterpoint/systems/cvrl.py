"""CVRL: two clips of one film, a while apart and each distorted as a whole, against the clips of all others."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.heads import projection_head
from counterpoint.encoders.video import VideoEncoder
from counterpoint.losses import nt_xent
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.video import ClipViews, FixedClips

__all__ = ["CVRL", "clip_agreement"]


@torch.no_grad()
def clip_agreement(first: Tensor, second: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """How often a first clip finds its partner among the second clips, and the entropy of its choice in nats.

    Args:
        first, second: (N, D), unit rows; row i of both is of one film.
        temperature: of the choice.
    """
    choice = torch.softmax(first @ second.T / temperature, dim=1)  # (N, N)
    itself = torch.arange(len(first), device=first.device)
    entropy = -(choice * (choice + 1e-8).log()).sum(dim=1).mean()
    return (choice.argmax(dim=1) == itself).to(choice.dtype).mean(), entropy


class CVRL(System):
    """Clip features from two clips of one film against the clips of all others (arXiv 2008.03800).

    Args:
        encoder: backbone, see `VideoEncoder`; what is kept after training. Its name says how many frames a clip has,
            how large they are and how far apart.
        clips: the time between the two clips, and their distortions; `frames`, `stride`, `size`, `mean` and `std` are
            those of the encoder.
        hidden: width of the projection head.
        layers: of the head, each with BatchNorm and ReLU, before the last linear map.
        dim: length of the contrasted vectors.
        temperature: divides the cosines.
        embedded_clips, embedded_crops: how many clips, evenly spaced over a film, and how many squares of each the
            vector of a film is the mean of. The paper's evaluation has 10 and 3.
    """

    paper = "Spatiotemporal Contrastive Video Representation Learning (arXiv 2008.03800)"
    needs = ("video",)
    modality = "video"

    def __init__(
        self,
        encoder: str = "r3d50",
        clips: ClipViews = ClipViews(),  # noqa: B008 (frozen)
        hidden: int = 2048,
        layers: int = 3,
        dim: int = 128,
        temperature: float = 0.1,
        embedded_clips: int = 10,
        embedded_crops: int = 3,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.encoder = VideoEncoder(encoder)
        self.head = projection_head(self.encoder.dim, hidden, dim, layers)
        self.temperature = temperature
        self.given = {name: getattr(self.encoder, name) for name in ("frames", "size", "stride", "mean", "std")}
        self.clips = replace(clips, **self.given)
        self.embedded = FixedClips(clips=embedded_clips, crops=embedded_crops, **self.given)

    def views(self) -> ClipViews:
        """Two clips of a film."""
        return self.clips

    def preprocess(self) -> FixedClips:
        """Evenly spaced clips of a film."""
        return self.embedded

    def encode(self, batch: Batch) -> Features:
        """first, second: (B, D) pooled backbone features; one call, so that BatchNorm sees both clips."""
        first, second = self.encoder(torch.cat([batch["first"], batch["second"]])).chunk(2)
        return {"first": first, "second": second}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """L_a + L_b, which is twice NT-Xent; accuracy and entropy are only watched.

        The head runs here, on the rows of all processes; its vectors stay among the features for `pair`.
        """
        projected = normalize(self.head(torch.cat([features["first"], features["second"]])), dim=1)  # (2B, dim)
        first, second = projected.chunk(2)
        features["projected_first"], features["projected_second"] = first, second
        accuracy, entropy = clip_agreement(first, second, temperature=self.temperature)
        return {
            "contrast": Term.mean(
                nt_xent(first, second, temperature=self.temperature),
                guess=math.log(max(2 * len(first) - 1, 1)),
                weight=2.0,
            ),
            "accuracy": Term.mean(accuracy, weight=0.0),
            "entropy": Term.mean(entropy, weight=0.0),
        }

    def embed(self, batch: Batch) -> Tensor:
        """(B, D): the mean of the unit features of a film's clips; linear protocols of the paper see unit features."""
        clips = batch["video"]  # (B, N, 3, T, H, W)
        features = self.encoder(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])  # (B, N, D)
        return normalize(features, dim=2).mean(dim=1)

    def pair(self, features: Features) -> tuple[Tensor, Tensor] | None:
        """Projections of the two clips."""
        if "projected_first" not in features:
            return None
        return features["projected_first"], features["projected_second"]

    def pair_temperature(self) -> float:
        """That of the loss."""
        return self.temperature
