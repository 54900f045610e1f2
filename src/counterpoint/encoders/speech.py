"""Speech encoders: a fresh Conformer, wav2vec2-bert of the hub, or the encoder of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import transformers
from torch import Tensor, nn

from counterpoint.encoders import assets
from counterpoint.encoders.base import Encoder, Trainable
from counterpoint.encoders.conformer import Conformer, Norm, frame_mask
from counterpoint.encoders.hub import one_line, quiet
from counterpoint.encoders.names import ModelName, parse_name, unknown_model
from counterpoint.encoders.weights import load_weights
from counterpoint.views.log_mel import LogMel

__all__ = ["SpeechEncoder"]

_SCHEMES = ("conformer", "hf", "run")
_OPTIONS = ("kernel", "channels", "dropout", "norm", "bins", "rate")
_HUB_TYPE = "wav2vec2-bert"
_PAIR = 2
"""Windows that wav2vec2-bert stacks into one frame."""


class SpeechEncoder(Encoder):
    """A network from log-mel features to a vector for every few hundredths of a second.

    Args:
        name: `conformer:LAYERSxWIDTHxHEADS` (fresh weights), `hf:ORG/NAME` or a local folder (wav2vec2-bert in
            transformers' format, safetensors), or `run:PATH` (the speech encoder of a counterpoint run). A fresh one
            takes `?kernel=31&channels=WIDTH&dropout=0.1&norm=batch&bins=80&rate=16000`: frames that its convolutions
            see, channels of its feature encoder, dropout, `norm=layer` for one that micro-batches can have, bands of
            the features, samples a second.
        trainable: "all", "none", "last:N" blocks, or parameter-name prefixes.

    Attributes:
        dim: length of the vectors.
        mel: the features that it takes.
        stride: windows of features that become one frame.

    Raises:
        ValueError: no such model, or weights that cannot be had.
    """

    kind: ClassVar[str] = "speech"

    def __init__(self, name: str, *, trainable: Trainable = "all") -> None:
        super().__init__(name)
        weights: dict[str, Tensor] | None = None
        asset = assets.find(self.kind, name)
        if asset is not None:
            self._build(asset.config, asset.folder)
        else:
            parsed = parse_name(name, _SCHEMES, _OPTIONS)
            if parsed.scheme == "run":
                found = assets.of_run(parsed.rest, self.kind)
                self._build(found.config, found.folder)
                weights = assets.run_weights(parsed.rest, found)
            elif parsed.scheme in ("hf", "path"):
                self._take(_from_hub(parsed))
            elif parsed.scheme == "conformer":
                self._build(_fresh(parsed), None)
            else:
                raise unknown_model("speech encoder", parsed.rest, ["conformer:4x144x4", "hf:ORG/NAME", "run:PATH"])
        if weights is not None:
            load_weights(self, weights, name)
        self.freeze(trainable)

    def _build(self, config: Mapping[str, Any], folder: Path | None) -> None:
        """The network that `save_assets` describes, with fresh weights."""
        self.conformer: dict[str, Any] | None = config.get("conformer")
        if self.conformer is None:
            assert folder is not None
            hub = transformers.AutoConfig.from_pretrained(folder / "model", local_files_only=True)
            self._take(transformers.AutoModel.from_config(hub, trust_remote_code=False))
            return
        self.mel = LogMel(**config["mel"])
        self.model: Any = Conformer(bins=self.mel.bins, **self.conformer)
        self.dim: int = self.conformer["dim"]
        self.stride: int = self.model.features.stride

    def _take(self, model: Any) -> None:
        """A wav2vec2-bert of transformers."""
        model.config.apply_spec_augment = False  # views mask
        model.masked_spec_embed = None
        self.conformer, self.model, self.stride = None, model, _PAIR
        self.mel = LogMel(bins=model.config.feature_projection_input_dim // _PAIR)
        self.dim = model.config.output_hidden_size if model.config.add_adapter else model.config.hidden_size

    def frames(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, bins) padded, (B,) windows -> (B, T', dim), (B,) frames; a frame sees no padding."""
        if features.dim() != 3 or features.shape[2] != self.mel.bins:
            raise ValueError(f"features must be (B, T, {self.mel.bins}), got {tuple(features.shape)}")
        if self.conformer is not None:
            return cast("tuple[Tensor, Tensor]", self.model(features, lengths))
        features = nn.functional.pad(features, (0, 0, 0, features.shape[1] % _PAIR))
        pairs = features.unflatten(1, (-1, _PAIR)).flatten(2)  # (B, T / 2, 2 bins)
        lengths = (lengths // _PAIR).clamp(min=1)  # a window left over is dropped, as the feature extractor does
        mask = frame_mask(lengths, pairs.shape[1])
        return self.model(pairs, attention_mask=mask.long()).last_hidden_state, lengths

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, bins), (B,) -> (B, dim): the mean over a recording's frames, not normalised."""
        frames, lengths = self.frames(features, lengths)
        mask = frame_mask(lengths, frames.shape[1])[..., None]
        return torch.where(mask, frames, 0).sum(dim=1) / lengths[:, None].to(frames.dtype)

    def blocks(self) -> list[list[str]]:
        """The Conformer blocks."""
        stack = "model.blocks" if self.conformer is not None else "model.encoder.layers"
        names = [name for name, _ in self.named_parameters()]
        count = len(list(self.get_submodule(stack).children()))
        return [[name for name in names if name.startswith(f"{stack}.{index}.")] for index in range(count)]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Sizes of a Conformer and of its features; transformers' own config (in `model/`) of the others."""
        if self.conformer is None:
            self.model.config.save_pretrained(folder / "model")
            return {}
        mel = {name: getattr(self.mel, name) for name in ("rate", "bins", "window", "hop", "low")}
        return {"conformer": self.conformer, "mel": mel}


def _fresh(name: ModelName) -> dict[str, Any]:
    """What `conformer:LAYERSxWIDTHxHEADS?...` says."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", name.rest)
    if match is None or 0 in (sizes := [int(number) for number in match.groups()]):
        raise ValueError(f"{name.full!r}: write conformer:LAYERSxWIDTHxHEADS, for example conformer:4x144x4")
    norm = name.options.get("norm", "batch")
    if norm not in ("batch", "layer"):
        raise ValueError(f"{name.full!r}: option norm must be batch or layer, got {norm!r}")
    layers, dim, heads = sizes
    settings = {
        "layers": layers,
        "dim": dim,
        "heads": heads,
        "kernel": name.whole("kernel", 31),
        "channels": name.whole("channels", dim),
        "dropout": name.share("dropout", 0.1),
        "norm": cast("Norm", norm),
    }
    mel = {"bins": name.whole("bins", 80), "rate": name.whole("rate", 16_000)}
    return {"conformer": settings, "mel": mel}


def _from_hub(name: ModelName) -> Any:
    local = name.scheme != "hf"
    try:
        config = transformers.AutoConfig.from_pretrained(name.rest, local_files_only=local)
        if config.model_type != _HUB_TYPE:
            raise ValueError(f"it is a {config.model_type}, and {_HUB_TYPE} is what is read here")
        with quiet():
            return transformers.AutoModel.from_pretrained(
                name.rest, use_safetensors=True, trust_remote_code=False, local_files_only=local, dtype=torch.float32
            )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name.full}: cannot be loaded as a speech encoder: {one_line(error)}") from error
