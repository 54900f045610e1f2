"""Video encoders: 3-D residual networks, a small 3-D network, and the video transformers of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from counterpoint.encoders import assets, networks3d, video_transformers
from counterpoint.encoders.base import Encoder, Trainable
from counterpoint.encoders.names import ModelName, parse_name, unknown_model
from counterpoint.encoders.networks3d import Network3D
from counterpoint.encoders.video_transformers import VideoTransformer
from counterpoint.encoders.weights import load_weights
from counterpoint.views.image import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["VideoEncoder"]

_SCHEMES = ("hf", "run")
_DEFAULTS = {"frames": 16, "size": 224, "stride": 2}
_SMALL = {"frames": 8, "size": 48, "stride": 2}
_OPTIONS = (*_DEFAULTS, "width")


class VideoEncoder(Encoder):
    """A network from a clip to one vector.

    Args:
        name: `r3d18`, `r3d34`, `r3d50`, `r3d101`, `r3d152` (see `ResNet3D`), `small3d` (see `Small3D`), all with fresh
            weights; `hf:ORG/NAME` or a folder in transformers' format (VideoMAE, TimeSformer, ViViT); `run:PATH` (the
            video encoder of a counterpoint run). Options: `?frames=8&size=64&stride=2` say which clips it is given (a
            convolutional network takes any; a transformer only `stride`, its own frames and size), `&width=32` how
            many channels the stem of a fresh network has.
        trainable: "all", "none", "last:N" stages or layers, or parameter-name prefixes.

    Attributes:
        dim: length of the vector.
        frames, size, stride: of the clips: how many frames, their side in pixels, and every how many-th of the film.
        mean, std: per-channel normalisation of inputs in [0, 1].

    Raises:
        ValueError: no such model (the nearest names are given), or weights that cannot be had.
    """

    kind: ClassVar[str] = "video"

    def __init__(self, name: str, *, trainable: Trainable = "all") -> None:
        super().__init__(name)
        weights: dict[str, Tensor] | None = None
        asset, options = assets.find(self.kind, name), {}
        if asset is None:
            parsed = parse_name(name, _SCHEMES, _OPTIONS)
            options = {option: parsed.whole(option, 1) for option in parsed.options}
            if parsed.scheme == "run":
                asset = assets.of_run(parsed.rest, self.kind)
                weights = assets.run_weights(parsed.rest, asset)
        self.model: Network3D | VideoTransformer
        if asset is not None:
            config = asset.config
            self.model = _stored(asset)
        else:
            self.model, config = _built(parsed)
        clips = {**config, **options}
        self.architecture: str = config["architecture"]
        self.width: int | None = config.get("width")
        if "width" in options and options["width"] != self.width:
            raise ValueError(f"{name!r}: width is that of a fresh network's stem; leave it out")
        self.frames, self.size, self.stride = int(clips["frames"]), int(clips["size"]), int(clips["stride"])
        fixed = (self.model.frames, self.model.size) if isinstance(self.model, VideoTransformer) else None
        if fixed is not None and fixed != (self.frames, self.size):
            raise ValueError(f"{name!r}: this transformer takes frames={fixed[0]} and size={fixed[1]}; leave them out")
        red, green, blue = config["mean"]
        self.mean: tuple[float, float, float] = (red, green, blue)
        red, green, blue = config["std"]
        self.std: tuple[float, float, float] = (red, green, blue)
        self.dim = self.model.dim
        if isinstance(self.model, Network3D):  # up to twice as fast on CPU with channels last
            self.model.to(memory_format=torch.channels_last_3d)
        if weights is not None:
            load_weights(self, weights, name)
        self.freeze(trainable)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) normalised -> (B, dim), pooled over time and place, not normalised."""
        return self.model(self._checked(clips))

    def maps(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) normalised -> (B, dim, t, h, w): the last feature map of a convolutional network."""
        if isinstance(self.model, VideoTransformer):
            raise ValueError(f"{self.name!r} is a transformer: it has no feature map")
        return self.model.maps(self._checked(clips))

    def _checked(self, clips: Tensor) -> Tensor:
        if clips.dim() != 5 or clips.shape[1] != 3:
            raise ValueError(f"clips must be (B, 3, T, H, W), got {tuple(clips.shape)}")
        if not clips.is_floating_point():
            raise TypeError(f"clips must be floating point, got {clips.dtype}")
        return clips.contiguous(memory_format=torch.channels_last_3d)

    def blocks(self) -> list[list[str]]:
        """Stages of a convolutional network, layers of a transformer."""
        if isinstance(self.model, VideoTransformer):
            prefixes = self.model.layers()
        else:
            prefixes = [f"stages.{index}." for index in range(len(self.model.stages))]
        names = [name for name, _ in self.named_parameters()]
        return [[name for name in names if name.startswith(f"model.{prefix}")] for prefix in prefixes]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Architecture and preprocessing."""
        extra = self.model.save_assets(folder) if isinstance(self.model, VideoTransformer) else {"width": self.width}
        return {
            "architecture": self.architecture,
            "frames": self.frames,
            "size": self.size,
            "stride": self.stride,
            "mean": list(self.mean),
            "std": list(self.std),
            **extra,
        }


def _stored(asset: assets.Asset) -> Network3D | VideoTransformer:
    config = asset.config
    if config["architecture"] in networks3d.NETWORKS:
        return networks3d.build(config["architecture"], config["width"])
    return video_transformers.stored(asset.folder, config)


def _built(name: ModelName) -> tuple[Network3D | VideoTransformer, dict[str, Any]]:
    """A fresh network by bare name, or a transformer of the hub or a folder, and its configuration."""
    if name.scheme:
        found = video_transformers.from_pretrained(name.rest, local=name.scheme == "path")
        clips = {"frames": found.frames, "size": found.size, "stride": _DEFAULTS["stride"]}
        kind = found.model.config.model_type
        return found, {"architecture": kind, "mean": found.mean, "std": found.std, **clips}
    if name.rest not in networks3d.NETWORKS:
        raise unknown_model("video network", name.rest, networks3d.NETWORKS)
    small = name.rest == "small3d"
    width = name.whole("width", 16 if small else 64)
    config = {"architecture": name.rest, "width": width, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return networks3d.build(name.rest, width), {**config, **(_SMALL if small else _DEFAULTS)}
