"""Video transformers from transformers: VideoMAE, TimeSformer and ViViT, of the hub or of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from counterpoint.encoders.hub import one_line, quiet
from counterpoint.views.image import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["VideoTransformer", "from_pretrained", "stored"]

_POOLS = {"videomae": "mean", "timesformer": "first", "vivit": "first"}
"""Model type -> the tokens that its own classifiers read: the mean of all, or the first."""


class VideoTransformer(nn.Module):
    """A transformer over pieces of a clip.

    Args:
        model: a VideoMAEModel, TimesformerModel or VivitModel.
        mean, std: of its image processor.

    Attributes:
        dim: length of the vector.
        frames, size: of the clips it takes; its positions fix both.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # its parameters would never get a gradient; runs store none
        self.model, self.mean, self.std = model, mean, std
        config = model.config
        size = config.image_size
        self.size = int(size if isinstance(size, int) else size[0])
        self.frames = int(config.num_frames)
        self.dim = int(config.hidden_size)
        self.pool = _POOLS[config.model_type]

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, frames, size, size) -> (B, dim)."""
        wanted = (3, self.frames, self.size, self.size)
        if tuple(clips.shape[1:]) != wanted:
            raise ValueError(
                f"this transformer takes clips (B, {', '.join(map(str, wanted))}), got {tuple(clips.shape)}"
            )
        tokens = self.model(pixel_values=clips.transpose(1, 2)).last_hidden_state  # (B, N, dim)
        return tokens.mean(dim=1) if self.pool == "mean" else tokens[:, 0]

    def layers(self) -> list[str]:
        """Names of the layers, first one first."""
        found = [(name, part) for name, part in self.named_modules() if isinstance(part, nn.ModuleList)]
        name, layers = max(found, key=lambda pair: len(pair[1]))
        return [f"{name}.{index}." for index in range(len(layers))]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """The architecture, in `model/`."""
        self.model.config.save_pretrained(folder / "model")
        return {"mean": list(self.mean), "std": list(self.std)}


def from_pretrained(source: str, *, local: bool) -> VideoTransformer:
    """A model from a folder, or from the hub or its cache; safetensors only.

    Raises:
        ValueError: no such model, weights that cannot be had, or not one of the kinds above.
    """
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if config.model_type not in _POOLS:
            raise ValueError(f"it is a {config.model_type} model; understood: {', '.join(_POOLS)}")
        with quiet():
            model = transformers.AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{source}: cannot be loaded as a video model: {one_line(error)}") from error
    try:
        reader = transformers.image_processing_utils.BaseImageProcessor
        values, _ = reader.get_image_processor_dict(source, **options)
    except OSError:  # none is stored
        values = {}
    mean, std = values.get("image_mean") or IMAGENET_MEAN, values.get("image_std") or IMAGENET_STD
    return VideoTransformer(model, tuple(mean), tuple(std))


def stored(folder: Path, values: dict[str, Any]) -> VideoTransformer:
    """What `save_assets` wrote, with fresh weights."""
    config = transformers.AutoConfig.from_pretrained(folder / "model", local_files_only=True)
    model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    return VideoTransformer(model, tuple(values["mean"]), tuple(values["std"]))
