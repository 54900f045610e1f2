"""What the tasks on whole rows share: an encoder of any kind with the views that feed it, and a linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from counterpoint.encoders import assets
from counterpoint.encoders.base import Trainable
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.points import PointEncoder
from counterpoint.encoders.speech import SpeechEncoder
from counterpoint.encoders.video import VideoEncoder
from counterpoint.system import Batch, Preprocess, System, View, with_own_rate
from counterpoint.views.audio import Cut, Perturb, SpecAugment, Utterance, pad_speech
from counterpoint.views.distorted_speech import DistortedSpeech
from counterpoint.views.image import OneView, Resize
from counterpoint.views.labelled_clips import SpreadClip
from counterpoint.views.labelled_points import DistortedPoints
from counterpoint.views.points import PointCloud, PointViews, collate_clouds
from counterpoint.views.video import FixedClips

__all__ = ["Distortion", "TaskSystem", "Trunk", "open_trunk"]


Distortion = Literal["strong", "weak", "none"]
"""Of training rows. "strong": what leaves the class alone, mirroring included; "weak": small cuts, nothing mirrored."""

_CUTS = {"strong": ((0.35, 1.0), 0.5), "weak": ((0.8, 1.0), 0.0), "none": ((1.0, 1.0), 0.0)}


class Trunk(nn.Module):
    """An encoder and what feeds it. One subclass a kind of encoder.

    Attributes:
        kind: that of the encoder.
        column: of the rows that it reads.
        encoder: the network.
        dim: length of its vectors.
    """

    kind: ClassVar[str] = ""
    column: ClassVar[str] = ""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim: int = encoder.dim

    def views(self, distortion: Distortion) -> View:
        """A row, distorted, for training."""
        raise NotImplementedError

    def preprocess(self) -> Preprocess:
        """A row, undistorted."""
        raise NotImplementedError

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Samples -> batch."""
        return default_collate(list(samples))

    def forward(self, batch: Batch) -> Tensor:
        """Batch -> (B, dim)."""
        return self.encoder(batch[self.column])


class _Pictures(Trunk):
    kind, column = "image", "image"

    def __init__(self, name: str, trainable: Trainable) -> None:
        super().__init__(ImageEncoder(name, trainable=trainable))

    def views(self, distortion: Distortion) -> OneView:
        scale, flip = _CUTS[distortion]
        return OneView(size=self.encoder.size, scale=scale, flip=flip, mean=self.encoder.mean, std=self.encoder.std)

    def preprocess(self) -> Resize:
        return Resize(size=self.encoder.size, mean=self.encoder.mean, std=self.encoder.std)


class _Clips(Trunk):
    kind, column = "video", "video"

    def __init__(self, name: str, trainable: Trainable) -> None:
        super().__init__(VideoEncoder(name, trainable=trainable))

    def views(self, distortion: Distortion) -> SpreadClip:
        scale, flip = _CUTS[distortion]
        network = self.encoder
        return SpreadClip(
            frames=network.frames, size=network.size, scale=scale, flip=flip, mean=network.mean, std=network.std
        )

    def preprocess(self) -> FixedClips:
        network = self.encoder
        return FixedClips(frames=network.frames, size=network.size, mean=network.mean, std=network.std)

    def forward(self, batch: Batch) -> Tensor:
        clips = batch["video"]  # (B, T, 3, s, s) in training, (B, 1, 3, T, s, s) else
        return self.encoder(clips.transpose(1, 2) if clips.dim() == 5 else clips[:, 0])


class _Recordings(Trunk):
    kind, column = "speech", "audio"

    def __init__(self, name: str, trainable: Trainable) -> None:
        super().__init__(SpeechEncoder(name, trainable=trainable))

    def views(self, distortion: Distortion) -> DistortedSpeech:
        faster, noise = {"strong": (0.9, 1.1), "weak": (), "none": ()}[distortion], {"strong": 0.5}.get(distortion, 0.0)
        hidden = SpecAugment() if distortion == "strong" else None
        return DistortedSpeech(self.encoder.mel, Cut(), Perturb(speed=(1.0, *faster), noise=noise), hidden)

    def preprocess(self) -> Utterance:
        return Utterance(self.encoder.mel)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        return pad_speech(samples)

    def forward(self, batch: Batch) -> Tensor:
        return self.encoder(batch["features"], batch["lengths"])


class _Clouds(Trunk):
    kind, column = "points", "points"

    def __init__(self, name: str, trainable: Trainable) -> None:
        super().__init__(PointEncoder(name, trainable=trainable))

    def views(self, distortion: Distortion) -> DistortedPoints:
        still: dict[str, Any] = {"crop": (1.0, 1.0), "features": self.encoder.features}
        if distortion != "strong":
            still |= {"flip": 0.0, "rotation": 10.0, "drop": 0.1}
        if distortion == "none":
            still |= {"rotation": 0.0, "scale": (1.0, 1.0), "drop": 0.0, "jitter": 0.0}
        return DistortedPoints(PointViews(**still))

    def preprocess(self) -> PointCloud:
        return PointCloud(features=self.encoder.features)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        return collate_clouds(samples)


_KINDS = {trunk.kind: trunk for trunk in (_Pictures, _Clips, _Recordings, _Clouds)}


def open_trunk(name: str, kind: str | None, trainable: Trainable) -> Trunk:
    """The encoder of this name with its views.

    Args:
        name: see the encoder of the kind; `run:PATH` takes that of a run.
        kind: "image" and so on; None for that of the run, and for pictures where there is no run.
        trainable: see `Encoder.freeze`.

    Raises:
        ValueError: no such kind; names those there are.
    """
    kind = kind or assets.stored_kind(name, tuple(_KINDS)) or _Pictures.kind
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    return _KINDS[kind](name, trainable)


class TaskSystem(System):
    """A linear map on an encoder's vectors; subclasses say what it is taught and what its answers mean.

    The head starts at zero, so that its first answers are the mean ones whatever the seed.
    """

    couples = False

    def __init__(
        self, encoder: str, kind: str | None, trainable: Trainable, distortion: Distortion, encoder_rate: float
    ) -> None:
        super().__init__()
        if distortion not in _CUTS:
            raise ValueError(f"distortion must be one of {', '.join(_CUTS)}, got {distortion!r}")
        if not encoder_rate > 0:
            raise ValueError(f"encoder_rate must be above 0, got {encoder_rate}: trainable='none' leaves it as it is")
        self.distortion, self.encoder_rate = distortion, encoder_rate
        self.trunk = open_trunk(encoder, kind, trainable)
        self.head_weight = nn.Parameter(torch.zeros(0, self.trunk.dim))
        self.head_bias = nn.Parameter(torch.zeros(0))

    @property
    def encoder(self) -> Any:
        """The network under the head."""
        return self.trunk.encoder

    def size_head(self, outputs: int) -> None:
        """Give the head its outputs, all zero."""
        device = self.head_weight.device
        self.head_weight = nn.Parameter(torch.zeros(outputs, self.trunk.dim, device=device))
        self.head_bias = nn.Parameter(torch.zeros(outputs, device=device))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder learns at its own rate."""
        return with_own_rate(super().parameter_groups(), self.trunk.parameters(), self.encoder_rate)

    def preprocess(self) -> Preprocess:
        """That of the encoder."""
        return self.trunk.preprocess()

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """That of the encoder."""
        return self.trunk.collate(samples)

    def head(self, features: Tensor) -> Tensor:
        """(B, dim) -> (B, outputs)."""
        return nn.functional.linear(features, self.head_weight, self.head_bias)

    def embed(self, batch: Batch) -> Tensor:
        """(B, dim), what the head reads."""
        return self.trunk(batch)

    @torch.no_grad()
    def answer(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """N rows -> (N, outputs) on the CPU, in evaluation mode.

        Raises:
            counterpoint.data.BadRow: a row that cannot be decoded.
        """
        training, prepare = self.training, self.preprocess()
        batch = self.collate([prepare(dict(row)) for row in rows])
        try:
            self.eval()
            moved = {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}
            return self.head(self.trunk(moved)).float().cpu()
        finally:
            self.train(training)
