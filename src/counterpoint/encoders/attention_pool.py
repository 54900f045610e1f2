"""CLIP's attention pool run for every place of a picture, whatever the size of its map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["attention_pool_tokens", "resized_positions"]


def resized_positions(positions: Tensor, height: int, width: int) -> Tensor:
    """Positional embeddings (1 + s * s, C) of a square grid -> (1 + h * w, C), bilinearly; the first stays."""
    side = round((len(positions) - 1) ** 0.5)
    if side * side != len(positions) - 1:
        raise ValueError(f"positions must be one and a square grid, got {len(positions)}")
    if (height, width) == (side, side):
        return positions
    grid = positions[1:].T.unflatten(1, (side, side))[None]  # (1, C, s, s)
    grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], grid[0].flatten(1).T])


def attention_pool_tokens(attention: Any, features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1 + h * w, dim): the mean and every place query a ModifiedResNet's attention pool.

    The first row is CLIP's embedding of the picture; CLIP itself computes no other (Rao et al. 2022, section 3.2).

    Args:
        attention: open_clip's `AttentionPool2d`; its positions are resized where the map has another size.
        features: the last map of the network.
    """
    height, width = features.shape[2:]
    places = features.flatten(2).permute(2, 0, 1)  # (h * w, B, C)
    places = torch.cat([places.mean(dim=0, keepdim=True), places])
    places = places + resized_positions(attention.positional_embedding, height, width)[:, None]
    pooled, _ = F.multi_head_attention_forward(
        places,
        places,
        places,
        places.shape[-1],
        attention.num_heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.c_proj.weight,
        out_proj_bias=attention.c_proj.bias,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=attention.q_proj.weight,
        k_proj_weight=attention.k_proj.weight,
        v_proj_weight=attention.v_proj.weight,
    )
    return pooled.transpose(0, 1)
