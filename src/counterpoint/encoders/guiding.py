"""A frozen CLIP as the judge of pictures that are being edited: gradients flow to the pixels, and to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.open_clip_towers import OpenClipTowers

__all__ = ["clip_pixels", "prompt_embeddings", "prompt_features", "resized", "stage_maps", "text_tower", "vocabulary"]


class _Pictures(Protocol):
    """What says how pictures must come."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@lru_cache(maxsize=64)
def _resizing(size: int, wanted: int) -> Tensor:
    """(wanted, size) float64: bilinear resizing with antialiasing along one side, as torch does it."""
    lines = torch.eye(size, dtype=torch.float64)[None, None]  # one picture a row: columns are the pixels
    return torch.nn.functional.interpolate(lines, size=(size, wanted), mode="bilinear", antialias=True)[0, 0].T


def resized(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) -> (B, C, size, size), bilinear with antialiasing, whatever the shape.

    Two matrix products, so the gradient is deterministic on a GPU too.
    """
    height, width = images.shape[2:]
    return _resizing(height, size).to(images) @ images @ _resizing(width, size).to(images).T


def clip_pixels(images: Tensor, encoder: _Pictures) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] -> (B, 3, size, size) as the encoder takes them; the whole picture, no crop."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (encoder.mean, encoder.std))
    return (resized(images, encoder.size) - mean) / std


def stage_maps(encoder: ClipEncoder, images: Tensor) -> list[Tensor]:
    """Pictures (B, 3, size, size) as the encoder takes them -> the maps after the stem and the four layers.

    Raises:
        ValueError: the image tower is no ResNet of the original CLIP.
    """
    visual: Any = getattr(getattr(encoder.towers, "model", None), "visual", None)
    if not isinstance(visual, ModifiedResNet):
        raise ValueError(
            f"{encoder.name!r} has no stages: identity needs a CLIP with a ResNet, such as open_clip:RN101/openai or "
            "fixture:resnet"
        )
    maps = [visual.stem(images.contiguous(memory_format=torch.channels_last))]
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        maps.append(layer(maps[-1]))
    return maps


def text_tower(encoder: ClipEncoder) -> open_clip.CLIP:
    """The model whose text tower takes embeddings in the place of words.

    Raises:
        ValueError: another architecture.
    """
    model = encoder.towers.model if isinstance(encoder.towers, OpenClipTowers) else None
    if not isinstance(model, open_clip.CLIP) or model.text_pool_type != "argmax":
        raise ValueError(
            f"{encoder.name!r} cannot read learnt prompts: that needs the original text tower, as in "
            "open_clip:ViT-B-32/openai or fixture:vit"
        )
    return model


@torch.no_grad()
def prompt_embeddings(encoder: ClipEncoder, texts: Sequence[str]) -> Tensor:
    """Texts -> (T, context, width): the embeddings of all places, from which learnt prompts start."""
    model = text_tower(encoder)
    ids = encoder.tokenize(texts)["input_ids"].to(model.positional_embedding.device)
    return model.token_embedding(ids)


def prompt_features(model: Any, embeddings: Tensor, end: int | Tensor) -> Tensor:
    """Embeddings (T, L, width) in the place of words -> text features (T, dim), not normalised.

    Args:
        model: an open_clip CLIP.
        embeddings: one for every place, start and end of the text among them.
        end: place of the end of the text, where the feature is read; one for all, or (T,).
    """
    length = embeddings.shape[1]
    hidden = embeddings + model.positional_embedding[:length].to(embeddings)
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length].to(embeddings))
    rows = torch.arange(len(hidden), device=hidden.device)
    return model.ln_final(hidden)[rows, end] @ model.text_projection


def vocabulary(encoder: ClipEncoder) -> list[str]:
    """Every word or piece of one that the encoder's tokenizer knows, once each, as text.

    Raises:
        ValueError: its tokenizer is not that of the original CLIP.
    """
    tokenizer = encoder.towers.tokenizer if isinstance(encoder.towers, OpenClipTowers) else None
    if not isinstance(tokenizer, SimpleTokenizer):
        raise ValueError(f"{encoder.name!r} has no list of words: that needs a CLIP with the original tokenizer")
    found = (tokenizer.decode([number]).strip() for number in sorted(tokenizer.decoder))
    special = {tokenizer.decode([number]).strip() for number in tokenizer.all_special_ids}
    return [word for word in dict.fromkeys(found) if word and word not in special]
