"""The image transformer of a CLIP, taken apart into blocks, so that frames can talk to each other between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.dense import first_tokens
from counterpoint.encoders.transformers_towers import TransformersTowers
from counterpoint.encoders.xclip_weights import load_video_weights

__all__ = ["FrameTower", "OpenClipFrames", "TransformersFrames", "frame_tower", "take_video_weights"]


class FrameTower(ABC):
    """A view of a network that somebody else owns: no module, no parameters of its own.

    Attributes:
        width: of the tokens.
        heads: of the attentions.
        dim: of the joint space.
        blocks: the network's own.
        parameters: names (within the encoder) that belong to the image tower start with one of these.
    """

    width: int
    heads: int
    dim: int
    blocks: Sequence[Any]
    parameters: tuple[str, ...] = ()

    @abstractmethod
    def start(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised, sides a whole number of patches -> (B, 1 + N, width), the class token first."""

    @abstractmethod
    def attend(self, block: Any, tokens: Tensor) -> Tensor:
        """What the attention of a block, with its norm, adds to tokens (B, L, width)."""

    @abstractmethod
    def think(self, block: Any, tokens: Tensor) -> Tensor:
        """What the MLP of a block, with its norm, adds to tokens (B, L, width)."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """Class tokens (B, width) after the last block -> (B, dim), the joint space, not normalised."""


class OpenClipFrames(FrameTower):
    """open_clip's `VisionTransformer` of the original form."""

    parameters = ("towers.model.visual.",)

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual, self.blocks = visual, list(visual.transformer.resblocks)
        self.width, self.heads = visual.transformer.width, self.blocks[0].attn.num_heads
        self.dim = visual.proj.shape[1]

    def start(self, images: Tensor) -> Tensor:
        """As `FrameTower.start`."""
        return first_tokens(self.visual, images)[0]

    def attend(self, block: Any, tokens: Tensor) -> Tensor:
        """As `FrameTower.attend`."""
        return block.ls_1(block.attention(block.ln_1(tokens)))

    def think(self, block: Any, tokens: Tensor) -> Tensor:
        """As `FrameTower.think`."""
        return block.ls_2(block.mlp(block.ln_2(tokens)))

    def project(self, tokens: Tensor) -> Tensor:
        """As `FrameTower.project`."""
        return self.visual.ln_post(tokens) @ self.visual.proj


class TransformersFrames(FrameTower):
    """The vision model of a transformers `CLIPModel`."""

    parameters = ("towers.model.vision_model.", "towers.model.visual_projection.")

    def __init__(self, model: Any) -> None:
        self.vision, self.projection = model.vision_model, model.visual_projection
        self.blocks = list(self.vision.encoder.layers)
        config = model.config.vision_config
        self.width, self.heads, self.dim = config.hidden_size, config.num_attention_heads, model.config.projection_dim

    def start(self, images: Tensor) -> Tensor:
        """As `FrameTower.start`."""
        size = self.vision.config.image_size
        other = tuple(images.shape[2:]) != (size, size)
        return self.vision.pre_layrnorm(self.vision.embeddings(images, interpolate_pos_encoding=other))

    def attend(self, block: Any, tokens: Tensor) -> Tensor:
        """As `FrameTower.attend`."""
        return block.self_attn(hidden_states=block.layer_norm1(tokens), attention_mask=None)[0]

    def think(self, block: Any, tokens: Tensor) -> Tensor:
        """As `FrameTower.think`."""
        return block.mlp(block.layer_norm2(tokens))

    def project(self, tokens: Tensor) -> Tensor:
        """As `FrameTower.project`."""
        return self.projection(self.vision.post_layernorm(tokens))


def frame_tower(encoder: ClipEncoder) -> FrameTower:
    """The image tower of a CLIP with a transformer of the original form.

    Raises:
        ValueError: another architecture.
    """
    model: Any = getattr(encoder.towers, "model", None)
    visual = getattr(model, "visual", None)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and isinstance(visual.proj, nn.Parameter):
        plain = all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks)
        if plain and visual.pool_type == "tok":
            return OpenClipFrames(visual)
    if isinstance(encoder.towers, TransformersTowers) and not encoder.towers.sigmoid:
        return TransformersFrames(model)
    raise ValueError(
        f"{encoder.name!r} has no image transformer of CLIP's original form: name one, such as "
        "open_clip:ViT-B-32-quickgelu/openai, hf:openai/clip-vit-base-patch32 or fixture:vit"
    )


def take_video_weights(encoder: ClipEncoder, parts: Mapping[str, nn.Module | None]) -> None:
    """Where the encoder was made of an X-CLIP, its weights go into `cross_frames`, `mit` and `prompts`.

    Raises:
        ValueError: they have another number of frames or layers.
    """
    if isinstance(encoder.towers, TransformersTowers) and encoder.towers.video is not None:
        load_video_weights(encoder.towers.video, parts, encoder.name)
        encoder.towers.video = None
