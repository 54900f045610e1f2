"""The Conformer: attention for what is far apart, convolution for what is near, padding seen by neither."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Conformer", "ConformerBlock", "FeatureEncoder", "RelativeAttention", "relative_positions"]

Norm = Literal["batch", "layer"]


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B,) lengths -> (B, frames) bool, True at frames that are there."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def relative_positions(frames: int, dim: int, *, like: Tensor) -> Tensor:
    """(2 T - 1, dim) for T frames: sines and cosines of the distances T - 1, ..., 0, ..., 1 - T (Dai et al. 2019)."""
    distances = torch.arange(frames - 1, -frames, -1, device=like.device, dtype=torch.float64)
    rates = torch.exp(torch.arange(0, dim, 2, device=like.device, dtype=torch.float64) * (-math.log(10000.0) / dim))
    angles = distances[:, None] * rates  # (2 T - 1, ceil(dim / 2))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim].to(like.dtype)


class RelativeAttention(nn.Module):
    """Multi-head attention whose scores also depend on how far apart two frames are (Dai et al. 2019, section 3.3).

    score_ij = ((q_i + u) . k_j + (q_i + v) . W r_(i - j)) / sqrt(dim of a head), u and v learnt.

    Args:
        dim: width.
        heads: a divisor of `dim`.
        dropout: of the attention weights.
        relative: False leaves positions out: q_i . k_j alone.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, *, relative: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"the width {dim} must be a multiple of the number of heads {heads}")
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.position = nn.Linear(dim, dim, bias=False) if relative else None
        if relative:
            self.content_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))
            self.distance_bias = nn.Parameter(torch.zeros(heads, 1, dim // heads))

    def _split(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # (..., heads, T, d)

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool of real frames, (2 T - 1, dim) -> (B, T, dim)."""
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        bias = torch.zeros(1, 1, 1, x.shape[1], dtype=query.dtype, device=x.device)
        if self.position is not None:
            distances = self._split(self.position(positions))  # (heads, 2 T - 1, d)
            scores = (query + self.distance_bias.to(query.dtype)) @ distances.mT  # (B, heads, T, 2 T - 1)
            bias = _shifted(scores) / math.sqrt(query.shape[-1])
            query = query + self.content_bias.to(query.dtype)
        bias = bias.masked_fill(~mask[:, None, None, :], -math.inf)
        chance = self.dropout.p if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=chance)
        return self.out(found.transpose(1, 2).flatten(2))


def _shifted(scores: Tensor) -> Tensor:
    """(B, heads, T, 2 T - 1), columns for distances T - 1 .. 1 - T -> (B, heads, T, T) at distance i - j."""
    frames = scores.shape[2]
    place = torch.arange(frames, device=scores.device)
    columns = frames - 1 - (place[:, None] - place)  # (T, T)
    return scores.gather(3, columns.expand(*scores.shape[:2], -1, -1))


class _Convolution(nn.Module):
    """Pointwise, gate, depthwise, norm over real frames, Swish, pointwise; no biases (Gulati et al. 2020, 2.1.2)."""

    def __init__(self, dim: int, kernel: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.frame_norm = nn.BatchNorm1d(dim) if norm == "batch" else nn.LayerNorm(dim)
        self.narrow = nn.Conv1d(dim, dim, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = F.glu(self.widen(self.norm(x).mT), dim=1)  # (B, dim, T)
        x = self.depthwise(x * mask[:, None].to(x.dtype)).mT  # (B, T, dim); beyond a recording there is nothing
        real = F.silu(self.frame_norm(x[mask]))  # (frames, dim): batch statistics never see padding
        x = torch.zeros_like(x, dtype=real.dtype).masked_scatter(mask[..., None], real)
        return self.dropout(self.narrow(x.mT).mT)


def _feed_forward(dim: int, inner: int, dropout: float) -> nn.Sequential:
    layers = (nn.Linear(dim, inner), nn.SiLU(), nn.Dropout(dropout), nn.Linear(inner, dim), nn.Dropout(dropout))
    return nn.Sequential(nn.LayerNorm(dim), *layers)


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, norm (Gulati et al. 2020, equation 1).

    Args:
        dim: width.
        heads: of attention.
        inner: width of the feed-forwards.
        kernel: frames that the convolution sees, odd.
        dropout: everywhere.
        norm: "batch" after the convolution, over all real frames; or "layer", each frame by itself.
        relative: whether attention knows distances.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        inner: int,
        kernel: int,
        dropout: float = 0.0,
        *,
        norm: Norm = "batch",
        relative: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a frame stands in its middle; got {kernel}")
        self.first = _feed_forward(dim, inner, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = RelativeAttention(dim, heads, dropout, relative=relative)
        self.dropout = nn.Dropout(dropout)
        self.convolution = _Convolution(dim, kernel, dropout, norm)
        self.second = _feed_forward(dim, inner, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """(B, T, dim), (B, T) bool of real frames, (2 T - 1, dim) -> (B, T, dim); padding holds anything."""
        x = x + 0.5 * self.first(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, positions))
        x = x + self.convolution(x, mask)
        return self.norm(x + 0.5 * self.second(x))


class FeatureEncoder(nn.Module):
    """Two convolutions that halve time and frequency, a linear map over what is left of frequency, and a norm.

    Args:
        bins: of the features.
        dim: width of what comes out.
        channels: of the convolutions.

    Attributes:
        stride: windows that become one frame.
    """

    stride = 4

    def __init__(self, bins: int, dim: int, channels: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(inputs, channels, 3, stride=2, padding=1) for inputs in (1, channels)]
        self.convolutions = nn.ModuleList(layers)
        self.linear = nn.Linear(channels * -(-bins // 4), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, bins), (B,) -> (B, T / 4, dim), (B,), both rounded up; frames of padding are 0."""
        x = features[:, None]  # (B, 1, T, bins)
        for layer in self.convolutions:
            x = F.relu(layer(x * frame_mask(lengths, x.shape[2])[:, None, :, None].to(x.dtype)))
            lengths = (lengths + 1) // 2
        x = self.norm(self.linear(x.transpose(1, 2).flatten(2)))
        return x * frame_mask(lengths, x.shape[1])[..., None].to(x.dtype), lengths


class Conformer(nn.Module):
    """A stack of blocks over the frames of a feature encoder.

    Args:
        bins: of the features.
        layers: number of blocks.
        dim, heads, kernel, dropout, norm: of the blocks; their feed-forwards are four times as wide as `dim`.
        channels: of the feature encoder; `dim` by default.
    """

    def __init__(
        self,
        bins: int,
        layers: int,
        dim: int,
        heads: int,
        kernel: int,
        dropout: float = 0.0,
        norm: Norm = "batch",
        channels: int | None = None,
    ) -> None:
        super().__init__()
        self.features = FeatureEncoder(bins, dim, channels or dim)
        self.input = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            [ConformerBlock(dim, heads, 4 * dim, kernel, dropout, norm=norm) for _ in range(layers)]
        )

    def start(self, x: Tensor) -> Tensor:
        """(B, T, dim) of the feature encoder, whatever was put into it since -> what the first block sees."""
        return self.dropout(self.input(x))

    def through(self, x: Tensor, lengths: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """(B, T, dim), (B,) -> (B, T, dim) after the blocks first .. last - 1."""
        mask = frame_mask(lengths, x.shape[1])
        positions = relative_positions(x.shape[1], x.shape[2], like=x)
        for block in self.blocks[first:last]:
            x = block(x, mask, positions)
        return x

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, bins), (B,) -> (B, T', dim), (B,) frames that are there."""
        x, lengths = self.features(features, lengths)
        return self.through(self.start(x), lengths), lengths
