"""X-CLIP: a cross-frame block, the integration of frames, the prompts, and all of it together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from counterpoint.encoders.frame_towers import OpenClipFrames
from counterpoint.encoders.video_clip import CrossFrames, FrameIntegration, VideoPrompts
from counterpoint.systems.x_clip import XCLIP

Arrays = Mapping[str, np.ndarray]
Weights = dict[str, Tensor]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64)).requires_grad_(grad)


def _weights(given: Arrays, prefix: str = "") -> Weights:
    """Weights under a prefix of the official names, in float64."""
    start = f"w.{prefix}"
    return {name[len(start) :]: _tensor(value) for name, value in given.items() if name.startswith(start)}


def _layers(weights: Weights, prefix: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(f"{prefix}.")})


def _messages(weights: Weights) -> tuple[Weights, Weights]:
    """Weights of the messages, and those of the tower itself."""
    messages = {name: value for name, value in weights.items() if "message_" in name}
    return messages, {name: value for name, value in weights.items() if name not in messages}


class _OneBlock(OpenClipFrames):
    """A tower of which only a block is used."""

    def __init__(self, width: int, heads: int) -> None:
        self.blocks = [ResidualAttentionBlock(width, heads, act_layer=QuickGELU).to(torch.float64)]
        self.width, self.heads = width, heads


def cct_block(given: Arrays) -> Arrays:
    x = _tensor(given["x"], grad=True)  # (L, B * T, w)
    tower = _OneBlock(x.shape[2], int(given["num_heads"]))
    cross = CrossFrames(tower).to(torch.float64)
    messages, own = _messages(_weights(given))
    tower.blocks[0].load_state_dict(own)
    cross.messages[0].load_state_dict(messages)
    found = cross.block(tower, 0, x.transpose(0, 1), int(given["num_frames"])).transpose(0, 1)
    (found * _tensor(given["cotangent"])).sum().backward()
    gradient: Any = cross.messages[0].get_parameter("message_fc.weight").grad
    return {"out": found.detach().numpy(), "grad_x": x.grad.numpy(), "grad_message_fc_weight": gradient.numpy()}


def _integration(weights: Weights, heads: int) -> FrameIntegration:
    _, frames, dim = weights["positional_embedding"].shape
    module = FrameIntegration(dim, frames, layers=_layers(weights, "resblocks"), heads=heads).to(torch.float64)
    module.load_state_dict(weights)
    return module


def mit(given: Arrays) -> Arrays:
    x = _tensor(given["x"], grad=True)
    found = _integration(_weights(given), int(given["num_heads"]))(x)
    (found * _tensor(given["cotangent"])).sum().backward()
    return {"out": found.detach().numpy(), "grad_x": x.grad.numpy()}


def _prompts(weights: Weights, heads: int, visual: Weights | None = None) -> VideoPrompts:
    width = None if visual is None else len(visual["visual_proj"])
    layers = _layers(weights, "decoder")
    module = VideoPrompts(len(weights["alpha"]), layers=layers, heads=heads, width=width).to(torch.float64)
    module.load_state_dict({**weights, **(visual or {})})
    return module


def video_prompt(given: Arrays) -> Arrays:
    text, visual = _tensor(given["text"], grad=True), _tensor(given["visual"], grad=True)
    found = _prompts(_weights(given), int(given["num_heads"]))(text, visual)
    (found * _tensor(given["cotangent"])).sum().backward()
    return {"out": found.detach().numpy(), "grad_text": text.grad.numpy(), "grad_visual": visual.grad.numpy()}


def _tower(weights: Weights, given: Arrays) -> VisionTransformer:
    patch = int(given["patch_size"])
    width, dim = weights["proj"].shape
    visual = VisionTransformer(
        image_size=given["video"].shape[-1],
        patch_size=patch,
        width=width,
        layers=len({name.split(".")[2] for name in weights if name.startswith("transformer.")}),
        heads=int(given["vision_heads"]),
        mlp_ratio=4.0,
        output_dim=dim,
        act_layer=QuickGELU,
    ).to(torch.float64)
    visual.load_state_dict(weights)
    return visual


class _Clips(nn.Module):
    """As much of the system as comes from clips and texts to logits."""

    logits = XCLIP.logits

    def __init__(self, given: Arrays, prompts: VideoPrompts) -> None:
        super().__init__()
        self.prompts = prompts
        self.encoder: Any = SimpleNamespace(logit_scale=_weights(given)["logit_scale"])


def xclip_logits(given: Arrays) -> Arrays:
    video = _tensor(given["video"], grad=True)
    messages, own = _messages(_weights(given, "visual."))
    tower = OpenClipFrames(_tower(own, given))
    cross = CrossFrames(tower).to(torch.float64)
    cross.load_state_dict({name.replace("transformer.resblocks.", "messages."): v for name, v in messages.items()})
    heads = int(given["embed_heads"])
    visual = {f"visual_{name}": value for name, value in _weights(given, "prompts_visual_").items()}
    prompts = _prompts(_weights(given, "prompts_generator."), heads, visual)
    found = cross(tower, video)
    whole = _integration(_weights(given, "mit."), heads)(found.frames)
    patches = prompts.visual_ln(found.patches) @ prompts.visual_proj  # (B, T, N, d)
    clips: Any = _Clips(given, prompts)
    logits = clips.logits(whole, prompts.places(found.patches), _tensor(given["text_features"]))
    (logits * _tensor(given["cotangent"])).sum().backward()
    return {
        "video_features": whole.detach().numpy(),
        "patch_features": patches.detach().numpy(),
        "logits": logits.detach().numpy(),
        "grad_video": video.grad.numpy(),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "x_clip/cct_block": cct_block,
    "x_clip/mit": mit,
    "x_clip/video_prompt": video_prompt,
    "x_clip/xclip_logits": xclip_logits,
}
