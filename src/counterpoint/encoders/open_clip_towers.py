"""Towers from open_clip: built-in architectures, pretrained tags, and folders in its format (as our fixtures are)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from counterpoint.encoders.attention_pool import attention_pool_tokens
from counterpoint.encoders.hub import download, one_line
from counterpoint.encoders.names import unknown_model
from counterpoint.encoders.towers import Tokens, Towers, joined_blocks, layer_blocks, matching
from counterpoint.encoders.weights import read_safetensors

__all__ = ["CONFIG", "MERGES", "WEIGHTS", "OpenClipTowers"]

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
MERGES = "bpe_merges.txt.gz"
"""A shortened list of merges for open_clip's tokenizer, if the folder has one."""


class OpenClipTowers(Towers):
    """An open_clip model.

    Args:
        config: {"model_cfg": ..., "preprocess_cfg": ...} as in open_clip_config.json.
        tokenizer: open_clip's tokenizer for it.
        merges: the file of merges of that tokenizer, when it is not open_clip's own.
    """

    def __init__(self, config: dict[str, Any], tokenizer: Any, merges: Path | None = None) -> None:
        super().__init__()
        model_config = deepcopy(config["model_cfg"])
        custom = model_config.pop("custom_text", False) or "hf_model_name" in model_config["text_cfg"]
        if "multimodal_cfg" in model_config:
            raise ValueError("captioning models (CoCa) are not CLIP-like: choose a model without multimodal_cfg")
        for part, key in (("vision_cfg", "timm_model_pretrained"), ("text_cfg", "hf_model_pretrained")):
            if key.split("_model")[0] + "_model_name" in model_config[part]:
                model_config[part][key] = False  # weights come from one file, never from two places
        build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        self.model = build(**model_config)
        if isinstance(self.model.visual, ModifiedResNet):
            self.model.visual.to(memory_format=torch.channels_last)
        self.config, self.tokenizer, self.merges = config, tokenizer, merges
        preprocess = config.get("preprocess_cfg", {})
        self.dim = int(model_config["embed_dim"])
        size = getattr(self.model.visual, "image_size", None) or model_config["vision_cfg"]["image_size"]
        self.size = int(size[0] if isinstance(size, (tuple, list)) else size)
        self.mean = tuple(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN)
        self.std = tuple(preprocess.get("std") or open_clip.OPENAI_DATASET_STD)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, dim)."""
        return self.model.encode_image(self._laid_out(images))

    def _laid_out(self, images: Tensor) -> Tensor:
        """Channels last for convolutional towers: a third faster on CPU."""
        if isinstance(self.model.visual, ModifiedResNet):
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens -> (B, dim)."""
        ids = tokens["input_ids"]
        if not self._looks_back_only():
            return self.model.encode_text(ids)
        end = ids.argmax(dim=1)  # the end-of-text token has the highest id
        hidden = self._hidden_text(ids[:, : int(end.max()) + 1])
        return hidden[torch.arange(len(ids), device=ids.device), end] @ self.model.text_projection

    def _looks_back_only(self) -> bool:
        """Whether what follows the end of a text cannot change its vector: padding need not be computed then."""
        model = self.model
        return (
            isinstance(model, open_clip.CLIP)
            and model.attn_mask is not None
            and model.text_pool_type == "argmax"
            and isinstance(model.text_projection, nn.Parameter)
        )

    def _hidden_text(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, width): tokens after the last norm."""
        text = getattr(self.model, "text", self.model)
        length = ids.shape[1]
        mask = None if text.attn_mask is None else text.attn_mask[:length, :length]
        hidden = text.token_embedding(ids) + text.positional_embedding[:length]
        return text.ln_final(text.transformer(hidden, attn_mask=mask))

    def image_tokens(self, images: Tensor) -> Tensor:
        """Patches after the last norm and the projection; of a ModifiedResNet the places of its attention pool."""
        visual = self.model.visual
        if isinstance(visual, ModifiedResNet):
            stem = visual.stem(self._laid_out(images))
            features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(stem))))  # (B, C, h, w)
            return attention_pool_tokens(visual.attnpool, features)[:, 1:]
        if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
            hidden = visual.ln_post(visual.transformer(visual._embeds(images)))  # (B, 1 + N, width)
            return hidden[:, 1:] if visual.proj is None else hidden[:, 1:] @ visual.proj
        raise ValueError(f"{type(visual).__name__} offers no vectors per place in the joint space")

    def text_tokens(self, tokens: Tokens) -> Tensor:
        """Tokens after the last norm and the projection."""
        text = getattr(self.model, "text", self.model)
        if not hasattr(text, "token_embedding"):
            raise ValueError(f"{type(text).__name__} offers no vectors per token in the joint space")
        hidden = self._hidden_text(tokens["input_ids"])  # (B, L, width)
        projection = text.text_projection
        if projection is None:
            return hidden
        return projection(hidden) if isinstance(projection, nn.Linear) else hidden @ projection

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """B texts -> ids and mask, (B, L) int64 each."""
        ids = self.tokenizer(list(texts))  # (B, context), padded
        if isinstance(self.tokenizer, SimpleTokenizer):
            place = torch.arange(ids.shape[1])
            mask = place <= ids.argmax(dim=1, keepdim=True)  # the end-of-text token has the highest id
        else:
            mask = ids != self.config["model_cfg"]["text_cfg"].get("pad_id", 0)
        return {"input_ids": ids, "attention_mask": mask.long()}

    def scale(self) -> nn.Parameter:
        """The model's own logit scale."""
        return self.model.logit_scale

    def bias(self) -> nn.Parameter | None:
        """The model's own logit bias, if it has one."""
        return self.model.logit_bias

    def head_parameters(self) -> list[str]:
        """Projections, scale and bias."""
        image = ["model.visual.proj", "model.visual.attnpool.c_proj.", "model.visual.head."]
        text = ["model.text_projection", "model.text.text_projection", "model.text.proj."]
        return matching(self, [*image, *text, "model.logit_"])

    def text_parameters(self) -> list[str]:
        """What is neither the visual tower nor scale and bias."""
        other = set(matching(self, ["model.visual.", "model.logit_"]))
        return [name for name, _ in self.named_parameters() if name not in other]

    def blocks(self) -> list[list[str]]:
        """Blocks of both towers side by side."""
        visual, text = self.model.visual, getattr(self.model, "text", self.model)
        if isinstance(visual, ModifiedResNet):
            image = [matching(self, [f"model.visual.layer{index}."]) for index in (1, 2, 3, 4)]
            image[-1] += matching(self, ["model.visual.attnpool."])
        elif isinstance(visual, VisionTransformer):
            image = layer_blocks(self, "model.visual.transformer.resblocks")
            image[-1] += matching(self, ["model.visual.ln_post."])
        else:
            return []
        if not hasattr(text, "ln_final"):
            return []
        prefix = "model." if text is self.model else "model.text."
        words = layer_blocks(self, f"{prefix}transformer.resblocks")
        words[-1] += matching(self, [f"{prefix}ln_final."])
        return joined_blocks(image, words)

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """open_clip_config.json and the tokenizer's files."""
        (folder / CONFIG).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        if self.merges is not None:
            shutil.copyfile(self.merges, folder / MERGES)
        if isinstance(self.tokenizer, HFTokenizer):
            self.tokenizer.save_pretrained(str(folder / "tokenizer"))
        return {"source": "open_clip"}


def from_folder(folder: Path, *, weights: bool) -> OpenClipTowers:
    """Towers from a folder with open_clip_config.json and, if `weights`, a safetensors file."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    text = config.get("model_cfg", {}).get("text_cfg", {})
    context = text.get("context_length", 77)
    merges = folder / MERGES if (folder / MERGES).is_file() else None
    if text.get("hf_tokenizer_name"):
        stored = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
        tokenizer: Any = HFTokenizer(str(stored), context_length=context, **text.get("tokenizer_kwargs", {}))
    else:
        tokenizer = SimpleTokenizer(**({"bpe_path": str(merges)} if merges else {}), context_length=context)
    towers = OpenClipTowers(config, tokenizer, merges)
    if weights:
        files = [folder / name for name in (WEIGHTS, "model.safetensors") if (folder / name).is_file()]
        if not files:
            raise ValueError(f"{folder} has no {WEIGHTS}: weights are read from safetensors files only")
        _load(towers, files[0])
    return towers


def _load(towers: OpenClipTowers, path: Path) -> None:
    """Weights of open_clip, or of a format it converts, from a safetensors file."""
    read_safetensors(path)  # a damaged file is named here, in one line
    try:
        load_checkpoint(towers.model, str(path))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{path} does not fit this architecture: {one_line(error)}") from error


def from_library(name: str) -> OpenClipTowers:
    """Towers of a built-in architecture: `ARCH` (fresh) or `ARCH/TAG` (pretrained, from the hub or its cache)."""
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise unknown_model("open_clip architecture", architecture, open_clip.list_models())
    preprocess: dict[str, Any] = {}
    path = None
    if tag:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tag not in tags:
            raise unknown_model(f"pretrained tag of {architecture}", tag, tags)
        preset = open_clip.get_pretrained_cfg(architecture, tag)
        preprocess = {key: list(preset[key]) for key in ("mean", "std") if preset.get(key)}
        path = _download(f"{architecture}/{tag}", preset.get("hf_hub", ""))
    config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": preprocess}
    if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name") and not tag:
        raise ValueError(f"open_clip:{architecture} takes its tokenizer from the hub: name a pretrained tag")
    towers = OpenClipTowers(config, open_clip.get_tokenizer(architecture))
    if path is not None:
        _load(towers, path)
    return towers


def _download(name: str, repository: str) -> Path:
    """The safetensors file of a pretrained tag, from the hub or its cache."""
    if not repository:
        raise ValueError(f"open_clip:{name} is offered without safetensors weights: choose another tag")
    organisation, _, rest = repository.partition("/")
    model, _, _ = rest.partition("/")  # what follows is a file name, in whatever format
    files = (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors")
    return download(f"{organisation}/{model}", files, f"open_clip:{name}")
