"""What makes a video network of a CLIP (Ni et al. 2022, arXiv 2208.02816): messages between frames, their integration,
and class names that look at the video.

Parameters are called as in the authors' code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from counterpoint.encoders.frame_towers import FrameTower
from counterpoint.encoders.prompting import CrossAttention, DecoderShape

__all__ = ["CrossFrames", "FrameFeatures", "FrameIntegration", "FrameMessages", "VideoPrompts"]

_STD = 0.02
"""Of the truncated normal that new weights are drawn from."""


class FrameFeatures(NamedTuple):
    """What an image tower says of T frames of B videos.

    Attributes:
        frames: (B, T, D), each frame's class token in the joint space, not normalised.
        patches: (B, T, N, W), the patches after the last block: neither normalised nor projected.
    """

    frames: Tensor
    patches: Tensor


def _drawn_anew(module: nn.Module) -> None:
    """Linear layers from a truncated normal distribution, their biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class FrameMessages(nn.Module):
    """What the frames of a video tell each other in front of one block (equations 4 and 5).

    Args:
        width: of the tokens.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.message_fc = nn.Linear(width, width)
        self.message_ln = nn.LayerNorm(width)
        self.message_attn = nn.MultiheadAttention(width, heads, batch_first=True)  # drawn as torch does
        _drawn_anew(self.message_fc)

    def forward(self, classes: Tensor) -> Tensor:
        """Class tokens of T frames (B, T, W) -> one message for each (B, T, W). It knows no order of the frames."""
        messages = self.message_fc(classes)
        normed = self.message_ln(messages)
        return messages + self.message_attn(normed, normed, normed, need_weights=False)[0]


class CrossFrames(nn.Module):
    """The cross-frame communication transformer: messages on top of a tower that is passed, not kept.

    Each block sees its frame's patches and the message to this frame, which is dropped again behind the attention. The
    tower's own weights are used as they are; without messages the frames are seen one by one.

    Args:
        tower: decides width, heads and number of blocks.
        messages: False leaves them out.
    """

    def __init__(self, tower: FrameTower, *, messages: bool = True) -> None:
        super().__init__()
        count = len(tower.blocks) if messages else 0
        self.messages = nn.ModuleList(FrameMessages(tower.width, tower.heads) for _ in range(count))

    def block(self, tower: FrameTower, number: int, tokens: Tensor, frames: int) -> Tensor:
        """One block over tokens (B * T, L, W), the T frames of a video one after another; gives (B * T, L, W)."""
        block = tower.blocks[number]
        if not self.messages:
            tokens = tokens + tower.attend(block, tokens)
            return tokens + tower.think(block, tokens)
        length = tokens.shape[1]
        message = self.messages[number](tokens[:, 0].unflatten(0, (-1, frames)))  # (B, T, W)
        tokens = torch.cat([tokens, message.flatten(0, 1)[:, None]], dim=1)  # (B * T, L + 1, W)
        tokens = (tokens + tower.attend(block, tokens))[:, :length]
        return tokens + tower.think(block, tokens)

    def forward(self, tower: FrameTower, video: Tensor) -> FrameFeatures:
        """Normalised frames (B, T, 3, H, W).

        Raises:
            ValueError: another shape.
        """
        if video.dim() != 5 or video.shape[2] != 3:
            raise ValueError(f"video must be (B, T, 3, H, W), got {tuple(video.shape)}")
        rows, frames = video.shape[:2]
        tokens = tower.start(video.flatten(0, 1))  # (B * T, 1 + N, W)
        for number in range(len(tower.blocks)):
            tokens = self.block(tower, number, tokens, frames)
        classes, patches = tokens[:, 0], tokens[:, 1:]
        return FrameFeatures(tower.project(classes).unflatten(0, (rows, frames)), patches.unflatten(0, (rows, frames)))


class FrameIntegration(nn.Module):
    """The multi-frame integration transformer (equation 7): the only part that knows the order of frames.

    Args:
        dim: of the frames' vectors.
        frames: how many there are.
        layers: of the transformer.
        heads: of its attentions.
    """

    def __init__(self, dim: int, frames: int, *, layers: int = 1, heads: int | None = None) -> None:
        super().__init__()
        heads = heads or max(1, dim // 64)
        self.positional_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, frames, dim), std=_STD))
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(dim, heads, act_layer=QuickGELU) for _ in range(layers))
        _drawn_anew(self.resblocks)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, D) -> (B, D): what the transformer makes of frames with positions, plus the frames without, averaged.

        Raises:
            ValueError: another number of frames than it was built for.
        """
        if frames.shape[1] != self.positional_embedding.shape[1]:
            raise ValueError(f"{frames.shape[1]} frames; there are positions for {self.positional_embedding.shape[1]}")
        found = frames + self.positional_embedding
        for block in self.resblocks:
            found = block(found)
        return (found + frames).mean(dim=1)


class _PromptLayer(nn.Module):
    """Names look at the places of a video, then pass an MLP. The places are not normalised again."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        width = shape.width
        self.cross_attn = CrossAttention(shape)
        self.norm1, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), QuickGELU(), nn.Dropout(shape.dropout), nn.Linear(4 * width, width)
        )

    def forward(self, texts: Tensor, places: Tensor) -> Tensor:
        texts = texts + self.cross_attn(self.norm1(texts), places)
        return texts + self.mlp(self.norm3(texts))


class VideoPrompts(nn.Module):
    """What is added to the vector of a class name in view of a video (equations 9 and 10).

    Args:
        dim: of the joint space.
        layers: of the decoder.
        heads: of its attentions.
        alpha: what every number of the result is multiplied by at first; learnt.
        width: of the patches, when the module also projects them.
    """

    def __init__(
        self, dim: int, *, layers: int = 2, heads: int | None = None, alpha: float = 0.1, width: int | None = None
    ) -> None:
        super().__init__()
        shape = DecoderShape(dim, heads or max(1, dim // 64), layers, dropout=0.0)
        self.norm = nn.LayerNorm(dim)
        self.decoder = nn.ModuleList(_PromptLayer(shape) for _ in range(layers))
        self.alpha = nn.Parameter(torch.full((dim,), alpha))
        _drawn_anew(self)
        if width is not None:
            self.visual_ln = nn.LayerNorm(width)
            self.visual_proj = nn.Parameter(nn.init.trunc_normal_(torch.empty(width, dim), std=_STD))

    def places(self, patches: Tensor) -> Tensor:
        """Patches (B, T, N, W) -> the places of the video (B, N, D), averaged over the frames."""
        return (self.visual_ln(patches) @ self.visual_proj).mean(dim=1)

    def forward(self, texts: Tensor, places: Tensor) -> Tensor:
        """Texts (B, K, D) and places (B, N, D) -> (B, K, D), to be added to the texts."""
        places = self.norm(places)
        for layer in self.decoder:
            texts = layer(texts, places)
        return self.alpha * texts
