"""Image encoders: any timm architecture, pretrained or fresh."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from timm.models import group_parameters
from torch import Tensor

from counterpoint.encoders import assets
from counterpoint.encoders.base import Encoder, Trainable
from counterpoint.encoders.hub import download
from counterpoint.encoders.names import ModelName, parse_name, unknown_model
from counterpoint.encoders.weights import load_weights, read_safetensors

__all__ = ["ImageEncoder"]

_SCHEMES = ("timm", "run")
_OPTIONS = ("size", "stride")


class ImageEncoder(Encoder):
    """A timm network without its classifier.

    Args:
        name: `resnet18` (fresh weights), `timm:resnet18.a1_in1k` (pretrained, from the hub or its cache),
            `run:PATH` (the image encoder of a counterpoint run), or a folder in timm's hub format (config.json,
            model.safetensors). `?size=64` sets the side of the input in pixels, `?stride=8` the pixels
            a cell of a convolutional network's `maps` spans (by dilation; 32 in most).
        trainable: "all", "none", "last:N" blocks, "head", or parameter-name prefixes.

    Attributes:
        dim: length of the pooled vector.
        size: side of the input in pixels.
        stride: pixels a cell spans, where the name says so; else None.
        mean, std: per-channel normalisation of inputs in [0, 1].

    Raises:
        ValueError: no such model (the nearest names are given), or weights that cannot be had.
    """

    kind: ClassVar[str] = "image"

    def __init__(self, name: str, *, trainable: Trainable = "all") -> None:
        super().__init__(name)
        self.model: Any
        weights: dict[str, Tensor] | None = None
        asset = assets.find(self.kind, name)
        if asset is not None:
            config = asset.config
            self.model = _create(config["architecture"], config["size"], **_dilated(config))
        else:
            parsed = parse_name(name, _SCHEMES, _OPTIONS)
            if parsed.scheme == "run":
                found = assets.of_run(parsed.rest, self.kind)
                config, weights = found.config, assets.run_weights(parsed.rest, found)
                self.model = _create(config["architecture"], config["size"], **_dilated(config))
            else:
                self.model, config = _from_timm(parsed)
        self.architecture: str = config["architecture"]
        self.size: int = config["size"]
        self.stride: int | None = config.get("stride")
        self.mean = _triple(config["mean"])
        self.std = _triple(config["std"])
        self.dim: int = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        # Convolutions are about one and a half times as fast on CPU with channels last.
        self.to(memory_format=torch.channels_last)
        if weights is not None:
            load_weights(self, weights, name)
        self.freeze(trainable)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, dim), pooled, not normalised."""
        return self.model(self._checked(images))

    def maps(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C, h, w): the last feature map, before pooling."""
        features = self.model.forward_features(self._checked(images))
        if features.dim() == 4:
            return features.permute(0, 3, 1, 2) if self._channels_come_last() else features
        tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]  # (B, h * w, C)
        height, width = self._grid(tokens.shape[1])
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, N, C): one vector per place, row by row, without class tokens."""
        return self.maps(images).flatten(2).transpose(1, 2)

    def _channels_come_last(self) -> bool:
        return str(getattr(self.model, "output_fmt", "NCHW")).upper().endswith("NHWC")

    def _grid(self, count: int) -> tuple[int, int]:
        embedding = getattr(self.model, "patch_embed", None)
        grid = getattr(embedding, "grid_size", None)
        if grid is not None and grid[0] * grid[1] == count:
            return grid[0], grid[1]
        side = round(count**0.5)
        if side * side != count:
            raise ValueError(f"{self.name!r}: its {count} tokens form no square map")
        return side, side

    def _checked(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point, got {images.dtype}")
        return images.contiguous(memory_format=torch.channels_last)

    def head_parameters(self) -> list[str]:
        """Final norm and pooling, where the architecture has them."""
        heads = ("norm.", "fc_norm.", "head_norm.", "head.", "attn_pool.", "conv_head.", "bn2.", "norm_head.")
        children = {name for name, _ in self.model.named_children()}
        return [
            name
            for name, _ in self.named_parameters()
            if any(name.startswith(f"model.{head}") and head[:-1] in children for head in heads)
        ]

    def blocks(self) -> list[list[str]]:
        """timm's own grouping into stages or transformer blocks, without the stem."""
        coarse = not hasattr(self.model, "patch_embed")
        groups = group_parameters(self.model, self.model.group_matcher(coarse=coarse))
        ordered = [[f"model.{name}" for name in groups[key]] for key in sorted(groups)]
        return ordered[1:]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Architecture and preprocessing."""
        return {
            "architecture": self.architecture,
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            **({"stride": self.stride} if self.stride is not None else {}),
        }


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _create(architecture: str, size: int | None, **arguments: Any) -> Any:
    """A timm model without classifier; architectures of fixed input size are told theirs."""
    default = timm.get_pretrained_cfg(architecture)
    if size is not None and default is not None and size != default.input_size[-1] and default.fixed_input_size:
        arguments["img_size"] = size
    try:
        return timm.create_model(architecture, num_classes=0, **arguments)
    except (TypeError, AssertionError) as error:
        if "output_stride" not in arguments:
            raise
        raise ValueError(
            f"{architecture!r} cannot have stride={arguments['output_stride']}: "
            "convolutional networks that can be dilated take 8, 16 or 32; leave the option out"
        ) from error


def _dilated(config: Mapping[str, Any]) -> dict[str, int]:
    """timm's argument for the stride that was asked for."""
    return {"output_stride": config["stride"]} if config.get("stride") is not None else {}


def _from_timm(name: ModelName) -> tuple[Any, dict[str, Any]]:
    """A timm model by bare name (fresh), by `timm:` (pretrained) or from a folder (its weights), and its config."""
    arguments: dict[str, Any] = {}
    if name.scheme == "path":
        architecture, arguments = _folder(Path(name.rest))
    elif name.scheme == "timm":
        architecture = name.rest
        if architecture not in timm.list_pretrained():
            raise unknown_model("pretrained timm model", architecture, timm.list_pretrained())
        arguments = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(_download(architecture))}}
    else:
        architecture = name.rest
        if not timm.is_model(architecture):
            raise unknown_model("timm architecture", architecture, timm.list_models())
    size, stride = (name.whole(option, 0) if option in name.options else None for option in _OPTIONS)
    model = _create(architecture, size, **arguments, **_dilated({"stride": stride}))
    preset = model.pretrained_cfg
    config = {
        "architecture": architecture,
        "size": size or int(preset["input_size"][-1]),
        "mean": preset["mean"],
        "std": preset["std"],
        "stride": stride,
    }
    return model, config


def _folder(folder: Path) -> tuple[str, dict[str, Any]]:
    """Architecture and loading arguments of a folder in timm's hub format."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    if not config.is_file() or not weights.is_file():
        raise ValueError(f"{folder} is no timm model: config.json or model.safetensors is missing")
    stored = json.loads(config.read_text(encoding="utf-8"))
    architecture = stored.get("architecture", "")
    if not timm.is_model(architecture):
        raise unknown_model("timm architecture", str(architecture), timm.list_models())
    read_safetensors(weights)  # a damaged file is named here, in one line
    preset = stored.get("pretrained_cfg", {})
    overlay = {key: preset[key] for key in ("input_size", "mean", "std", "num_classes") if key in preset}
    overlay["file"] = str(weights)
    return architecture, {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _download(name: str) -> Path:
    """The safetensors file of a pretrained timm model, from the hub or its cache."""
    preset = timm.get_pretrained_cfg(name)
    if preset is None or not preset.hf_hub_id:
        raise ValueError(f"timm:{name} has no safetensors weights on the hub: choose another tag")
    repository = f"{preset.hf_hub_id}{name}" if preset.hf_hub_id.endswith("/") else preset.hf_hub_id
    return download(repository, [preset.hf_hub_filename or "model.safetensors"], f"timm:{name}")
