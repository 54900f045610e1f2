"""transformers' X-CLIP models taken apart: the CLIP below, and what makes a video network of it under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from counterpoint.encoders.weights import load_weights

__all__ = ["VideoWeights", "load_video_weights", "split_xclip"]

VideoWeights = dict[str, dict[str, Tensor]]
"""Weights of `cross_frames`, `mit` and `prompts`, by these names."""

_LAYER = (
    (".self_attn.", ".attn."),
    (".layer_norm", ".ln_"),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_PROMPTS = (
    ("prompts_visual_layernorm.", "visual_ln."),
    ("prompts_visual_projection", "visual_proj"),
    ("prompts_generator.layernorm.", "norm."),
    ("prompts_generator.", ""),
)


def split_xclip(model: Any) -> tuple[Any, VideoWeights]:
    """A transformers `XCLIPModel` -> the `CLIPModel` below it, and the weights on top.

    Raises:
        ValueError: heads of another size than 64, which X-CLIP does not have.
    """
    config = model.config
    dim = config.projection_dim
    heads = (config.vision_config.mit_num_attention_heads, config.prompt_num_attention_heads)
    if heads != (max(1, dim // 64),) * 2:
        raise ValueError(
            f"integration and prompts of {dim} numbers have {max(1, dim // 64)} heads, the model has {heads}"
        )
    state = model.state_dict()
    video: VideoWeights = {"cross_frames": {}, "mit": {}, "prompts": {}}
    for name, value in _joined(state).items():
        part, own = _ours(name)
        if part:
            video[part][own] = value
    # A text is read at its end, which has the highest id: what CLIP does for an `eos_token_id` of 2.
    text = {**config.text_config.to_dict(), "eos_token_id": 2}
    towers = transformers.CLIPConfig(text_config=text, vision_config=config.vision_config.to_dict(), projection_dim=dim)
    clip = transformers.CLIPModel(towers)
    kept = {name.replace("pre_layernorm", "pre_layrnorm"): value for name, value in state.items()}
    load_weights(
        clip, {name: value for name, value in kept.items() if name in clip.state_dict()}, "the CLIP below X-CLIP"
    )
    return clip, video


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of the attentions that torch keeps in one matrix, one after another."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*(?:message_attn|mit\..*self_attn))\.([qkv])_proj\.(weight|bias)", name)
        if match is None:
            found[name] = value
        elif match[2] == "q":
            parts = [state[f"{match[1]}.{letter}_proj.{match[3]}"] for letter in "qkv"]
            found[f"{match[1]}.in_proj_{match[3]}"] = torch.cat(parts)
    return found


def _ours(name: str) -> tuple[str, str]:
    """(part, our name in it); empty for what belongs to the CLIP."""
    match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.(message_.*)", name)
    if match is not None:
        return "cross_frames", f"messages.{match[1]}.{match[2]}"
    if name == "mit.position_embedding":
        return "mit", "positional_embedding"
    if name.startswith("mit."):
        own = name.removeprefix("mit.encoder.layers.")
        for theirs, ours in _LAYER:
            own = own.replace(theirs, ours)
        return "mit", f"resblocks.{own}"
    for theirs, ours in _PROMPTS:
        if name.startswith(theirs):
            return "prompts", ours + name.removeprefix(theirs)
    return "", ""


def load_video_weights(video: VideoWeights, parts: Mapping[str, nn.Module | None], source: str) -> None:
    """Put weights into the parts that are there.

    Raises:
        ValueError: another number of frames or layers; says which tensor does not fit.
    """
    for name, part in parts.items():
        if part is not None and len(part.state_dict()):
            load_weights(part, video[name], f"{source} ({name})")
