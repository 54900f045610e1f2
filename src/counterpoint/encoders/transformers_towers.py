"""Towers from transformers: CLIP, SigLIP and X-CLIP models of the hub or of a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from counterpoint.encoders.hub import one_line, quiet
from counterpoint.encoders.towers import Tokens, Towers, joined_blocks, layer_blocks, matching
from counterpoint.encoders.xclip_weights import VideoWeights, split_xclip
from counterpoint.views.image import CLIP_MEAN, CLIP_STD

__all__ = ["TransformersTowers"]

_KINDS = ("clip", "siglip", "xclip")


class TransformersTowers(Towers):
    """A transformers CLIPModel or SiglipModel.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        preprocess: {"mean": ..., "std": ...} of its image processor.

    Attributes:
        video: of an X-CLIP, the weights on top of its CLIP, until somebody takes them.
    """

    video: VideoWeights | None = None

    def __init__(self, model: Any, tokenizer: Any, preprocess: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.tokenizer, self.preprocess = model, tokenizer, preprocess
        self.sigmoid = model.config.model_type == "siglip"
        config = model.config
        self.dim = config.text_config.hidden_size if self.sigmoid else config.projection_dim
        self.size = int(config.vision_config.image_size)
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, dim)."""
        return self.model.get_image_features(pixel_values=images).pooler_output

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens -> (B, dim)."""
        return self.model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=None if self.sigmoid else tokens["attention_mask"]
        ).pooler_output

    def image_tokens(self, images: Tensor) -> Tensor:
        """CLIP's patches after the last norm and the projection."""
        if self.sigmoid:
            raise ValueError("SigLIP pools its patches with attention: it has no joint vectors per place")
        hidden = self.model.vision_model(pixel_values=images).last_hidden_state[:, 1:]  # (B, N, width)
        return self.model.visual_projection(self.model.vision_model.post_layernorm(hidden))

    def text_tokens(self, tokens: Tokens) -> Tensor:
        """Tokens after the last norm and the projection."""
        mask = None if self.sigmoid else tokens["attention_mask"]
        hidden = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        return self.model.text_model.head(hidden) if self.sigmoid else self.model.text_projection(hidden)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """B texts -> ids and mask, (B, L) int64 each."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        mask = tokens.get("attention_mask")
        ids = tokens["input_ids"]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask}

    def scale(self) -> nn.Parameter:
        """The model's own logit scale."""
        return self.model.logit_scale

    def bias(self) -> nn.Parameter | None:
        """The model's own logit bias, if it has one."""
        return self.model.logit_bias if self.sigmoid else None

    def head_parameters(self) -> list[str]:
        """Projections, scale and bias."""
        heads = ["model.visual_projection.", "model.text_projection.", "model.vision_model.head."]
        return matching(self, [*heads, "model.text_model.head.", "model.logit_"])

    def text_parameters(self) -> list[str]:
        """The text model and its projection."""
        return matching(self, ["model.text_model.", "model.text_projection."])

    def blocks(self) -> list[list[str]]:
        """Blocks of both towers side by side."""
        image = layer_blocks(self, "model.vision_model.encoder.layers")
        text = layer_blocks(self, "model.text_model.encoder.layers")
        image[-1] += matching(self, ["model.vision_model.post_layernorm."])
        text[-1] += matching(self, ["model.text_model.final_layer_norm."])
        return joined_blocks(image, text)

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """The architecture and the tokenizer, in `model/`."""
        self.model.config.save_pretrained(folder / "model")
        self.tokenizer.save_pretrained(folder / "model")
        return {"source": "transformers", "preprocess": self.preprocess}


def from_pretrained(source: str, *, local: bool) -> TransformersTowers:
    """Towers from a folder, or from the hub or its cache."""
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        if config.model_type not in _KINDS:
            raise ValueError(f"it is a {config.model_type} model; CLIP-like are {', '.join(_KINDS)}")
        with quiet():
            model = transformers.AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{source}: cannot be loaded as a CLIP-like model: {one_line(error)}") from error
    video = None
    if config.model_type == "xclip":
        model, video = split_xclip(model)
    towers = TransformersTowers(model, tokenizer, _preprocess(source, options))
    towers.video = video
    return towers


def _preprocess(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Mean and std of the model's image processor; CLIP's when none is stored."""
    try:
        values, _ = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict(source, **options)
    except OSError:
        values = {}
    return {"mean": list(values.get("image_mean") or CLIP_MEAN), "std": list(values.get("image_std") or CLIP_STD)}


def stored(folder: Path, preprocess: dict[str, Any]) -> TransformersTowers:
    """Towers from what `save_assets` wrote, with fresh weights."""
    config = transformers.AutoConfig.from_pretrained(folder / "model", local_files_only=True)
    model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model", local_files_only=True)
    return TransformersTowers(model, tokenizer, preprocess)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a CLIP-like transformers model."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") in _KINDS
    except (OSError, ValueError):
        return False
