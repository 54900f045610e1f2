"""The attention pool for every place, against loops, and on maps of another size."""

from __future__ import annotations

import math

import pytest
import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor

from counterpoint.encoders.attention_pool import attention_pool_tokens, resized_positions


def _pool(side: int = 3, width: int = 8, heads: int = 2, dim: int = 6) -> AttentionPool2d:
    torch.manual_seed(0)
    pool = AttentionPool2d(side, width, heads, dim).double()
    for parameter in pool.parameters():
        torch.nn.init.normal_(parameter)
    return pool


@torch.no_grad()
def _by_hand(pool: AttentionPool2d, features: Tensor, positions: Tensor) -> Tensor:
    """(C, h, w) -> (1 + h * w, dim)."""
    places = features.flatten(1).T
    x = torch.cat([places.mean(dim=0, keepdim=True), places]) + positions
    q, k, v = (getattr(pool, f"{name}_proj")(x) for name in "qkv")
    size = x.shape[1] // pool.num_heads
    found = torch.zeros_like(x)
    for head in range(pool.num_heads):
        own = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            logits = [float(q[i, own] @ k[j, own]) / math.sqrt(size) for j in range(len(x))]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            for j, weight in enumerate(weights):
                found[i, own] += weight / sum(weights) * v[j, own]
    return pool.c_proj(found)


def test_every_place_asks() -> None:
    pool = _pool()
    features = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    found = attention_pool_tokens(pool, features)
    for row in range(2):
        torch.testing.assert_close(found[row], _by_hand(pool, features[row], pool.positional_embedding))
    torch.testing.assert_close(found[:, 0], pool(features))  # what CLIP itself computes


def test_positions_of_another_grid_by_hand() -> None:
    """From 2 x 2 to 1 x 4: rows meet in the middle, columns lie at 1/8, 3/8, 5/8 and 7/8 of the width."""
    positions = torch.tensor([[9.0], [0.0], [4.0], [8.0], [12.0]])
    assert resized_positions(positions, 1, 4)[:, 0].tolist() == [9.0, 4.0, 5.0, 7.0, 8.0]
    assert resized_positions(positions, 2, 2) is positions
    with pytest.raises(ValueError, match="one and a square grid, got 4"):
        resized_positions(positions[:4], 2, 2)


def test_a_wider_map() -> None:
    pool = _pool()
    features = torch.randn(1, 8, 2, 5, dtype=torch.float64)
    found = attention_pool_tokens(pool, features)
    assert found.shape == (1, 11, 6)
    torch.testing.assert_close(
        found[0], _by_hand(pool, features[0], resized_positions(pool.positional_embedding, 2, 5))
    )
