"""Prompts that learn: contexts in front of class names, and a decoder that lets texts look at a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.guiding import prompt_features

__all__ = ["ContextDecoder", "CrossAttention", "DecoderShape", "contextual_features", "short_tokens"]


def short_tokens(encoder: ClipEncoder, names: tuple[str, ...], length: int) -> Tensor:
    """Names -> token ids (K, length): start, words, end; longer names are cut, the end stays, zeros fill up."""
    if length < 3:
        raise ValueError(f"length must be at least 3 tokens (start, a word, end), got {length}")
    tokens = encoder.tokenize(names)
    ids, real = tokens["input_ids"], tokens["attention_mask"].sum(dim=1)  # (K, L), (K,)
    cut = F.pad(ids, (0, max(length - ids.shape[1], 0)))[:, :length].clone()
    cut[real >= length, -1] = ids[real >= length, real[real >= length] - 1]
    return cut


def contextual_features(model: Any, tokens: Tensor, contexts: Tensor) -> Tensor:
    """Text features (B, K, dim) of K names behind learnt contexts, not normalised (CoOp; Rao et al. 2022, section 3.2).

    The contexts stand between the start of a text and its first word; the feature is read at its end, which they move.

    Args:
        model: an open_clip CLIP, whose text tower may be frozen: the gradient flows through it into the contexts.
        tokens: (K, L) ids; the end of a text has the highest id.
        contexts: (B, N, width), one set a picture, or B = 1 for all.

    Raises:
        ValueError: contexts and tokens together are longer than the tower's texts.
    """
    length, most = contexts.shape[1] + tokens.shape[1], len(model.positional_embedding)
    if length > most:
        raise ValueError(
            f"{contexts.shape[1]} contexts and {tokens.shape[1]} tokens make {length}, but the tower's texts have at "
            f"most {most}: set fewer contexts or a smaller text_length"
        )
    words = model.token_embedding(tokens)  # (K, L, width)
    sets, names = len(contexts), len(tokens)
    parts = (
        words[None, :, :1].expand(sets, -1, -1, -1),
        contexts[:, None].expand(-1, names, -1, -1),
        words[None, :, 1:].expand(sets, -1, -1, -1),
    )
    texts = torch.cat(parts, dim=2).flatten(0, 1)  # (B * K, N + L, width)
    end = tokens.argmax(dim=1) + contexts.shape[1]  # (K,)
    return prompt_features(model, texts, end.repeat(sets)).unflatten(0, (sets, names))


@dataclass(frozen=True)
class DecoderShape:
    """Size of a `ContextDecoder`.

    Attributes:
        width: of its layers.
        heads: of its attentions.
        layers: how many.
        dropout: on every projection behind an attention and twice in every MLP, in [0, 1).
    """

    width: int = 256
    heads: int = 4
    layers: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.layers) < 1 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, and layers at least 1; got {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class CrossAttention(nn.Module):
    """Multi-head attention without biases but the last, and dropout behind it."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.heads, width = shape.heads, shape.width
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj, self.dropout = nn.Linear(width, width), nn.Dropout(shape.dropout)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """(B, Q, W), (B, M, W) -> (B, Q, W)."""
        parts = (self.q_proj(queries), self.k_proj(memory), self.v_proj(memory))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, H, ., w)
        found = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.dropout(self.proj(found))


class _Layer(nn.Module):
    """Texts look at each other, then at the picture, then pass an MLP; each with its own norm and residual."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        width = shape.width
        self.self_attn, self.cross_attn = CrossAttention(shape), CrossAttention(shape)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(shape.dropout),
        )

    def forward(self, texts: Tensor, memory: Tensor) -> Tensor:
        normed = self.norm1(texts)
        texts = texts + self.self_attn(normed, normed)
        texts = texts + self.cross_attn(self.norm2(texts), memory)  # the memory is not normalised again
        return texts + self.mlp(self.norm3(texts))


class ContextDecoder(nn.Module):
    """What texts, or learnt queries, find in a picture (Rao et al. 2022, section 3.2). Parameters as in their code.

    Args:
        dim: of queries and memory.
        shape: its size.
        output: of what comes out; `dim` by default.
    """

    def __init__(self, dim: int, shape: DecoderShape, output: int | None = None) -> None:
        super().__init__()
        width = shape.width
        self.memory_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.LayerNorm(width))
        self.text_proj = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.decoder = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, output or dim))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, texts: Tensor, picture: Tensor) -> Tensor:
        """(B, K, dim) that ask, (B, M, dim) that are looked at -> (B, K, output)."""
        memory, found = self.memory_proj(picture), self.text_proj(texts)
        for layer in self.decoder:
            found = layer(found, memory)
        return self.out_proj(found)
