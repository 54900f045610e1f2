"""Maps of a picture at several sizes, and one joint vector for each of its places, from any image network."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.attention_pool import attention_pool_tokens, resized_positions
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.guiding import stage_maps
from counterpoint.encoders.image import ImageEncoder

__all__ = ["Dense", "DenseStages", "first_tokens", "pixel_text_scores"]

LEVELS = 4


class Dense(NamedTuple):
    """What a network says of pictures.

    Attributes:
        maps: up to four (B, C_i, h_i, w_i), the finest first.
        whole: (B, D), the embedding of each picture.
        cells: (B, D, h, w), the embeddings of its places; of the size of `maps[DenseStages.level]`.
    """

    maps: list[Tensor]
    whole: Tensor
    cells: Tensor


class DenseStages(nn.Module):
    """The learnt part between an encoder and its maps. The encoder is passed, not kept: its owner is the system.

    A CLIP's image tower brings joint vectors along: a ResNet from its attention pool, a transformer from its last
    norm and projection. Of any other network the last map is projected to joint vectors, and their mean stands for
    the picture (Rao et al. 2022, section 3.4). Transformers have one size of map: four of their blocks are enlarged 4
    and 2 times, kept, and halved.

    Args:
        encoder: `ClipEncoder` with a tower of open_clip, or any `ImageEncoder`.
        dim: length of the joint vectors.
        size: side of the pictures it will see, in pixels; a whole number of patches.

    Attributes:
        channels: of the maps.
        level: the map that has as many places as `cells`.

    Raises:
        ValueError: an encoder without vectors for places, or one that does not take pictures of this size.
    """

    def __init__(self, encoder: ClipEncoder | ImageEncoder, dim: int, size: int) -> None:
        super().__init__()
        found = _probe(encoder, size)
        self.channels = [tensor.shape[1] for tensor in found.maps]
        alike = len({tensor.shape[2:] for tensor in found.maps}) == 1
        self.level = 2 if alike else len(found.maps) - 1
        self.rescale = nn.ModuleList(_rescalings(self.channels) if alike else [])
        self.project = nn.Conv2d(self.channels[-1], dim, 1) if isinstance(encoder, ImageEncoder) else None

    def forward(self, encoder: ClipEncoder | ImageEncoder, images: Tensor) -> Dense:
        """Pictures (B, 3, H, W) as the encoder takes them, of any size that its patches divide."""
        maps, whole, cells = _stages(encoder, images)
        if self.project is not None:
            cells = self.project(maps[-1])
            whole = cells.mean(dim=(2, 3))
        if self.rescale:
            maps = [layer(tensor) for layer, tensor in zip(self.rescale, maps, strict=True)]
        return Dense(maps, whole, cells)


@torch.no_grad()
def _probe(encoder: ClipEncoder | ImageEncoder, size: int) -> Dense:
    """What comes out for a black picture; the statistics of the encoder's norms stay as they are."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        return _stages(encoder, torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"{encoder.name!r} does not take pictures of view.size={size} pixels: {error}") from error
    finally:
        for module, mode in modes:
            module.training = mode


def _rescalings(channels: list[int]) -> list[nn.Module]:
    """Four times as fine, twice as fine, as it is, half as fine."""
    if len(channels) != LEVELS:
        raise ValueError(f"a network whose maps are all of one size must have at least {LEVELS} blocks")

    def doubled(width: int) -> nn.ConvTranspose2d:
        return nn.ConvTranspose2d(width, width, 2, stride=2)

    first, second, _, _ = channels
    finest = nn.Sequential(doubled(first), nn.BatchNorm2d(first), nn.GELU(), doubled(first))
    return [finest, doubled(second), nn.Identity(), nn.MaxPool2d(2)]


def _stages(encoder: ClipEncoder | ImageEncoder, images: Tensor) -> Dense:
    """Maps as the network makes them; without a joint space `whole` and `cells` are the last map's."""
    if isinstance(encoder, ImageEncoder):
        maps = _timm_maps(encoder, images)
        return Dense(maps, maps[-1].mean(dim=(2, 3)), maps[-1])
    visual: Any = getattr(getattr(encoder.towers, "model", None), "visual", None)
    if isinstance(visual, ModifiedResNet):
        maps = stage_maps(encoder, images.contiguous(memory_format=torch.channels_last))[1:]
        tokens = attention_pool_tokens(visual.attnpool, maps[-1])  # (B, 1 + h * w, D)
        return _with_tokens(maps, tokens, (maps[-1].shape[2], maps[-1].shape[3]))
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.proj is not None:
        return _transformer_maps(visual, images)
    raise ValueError(
        f"{encoder.name!r} has no vectors for places: name a CLIP with a ResNet or a transformer of the original form, "
        "such as open_clip:RN50/openai or fixture:vit, or set `backbone` to an image encoder"
    )


def _with_tokens(maps: list[Tensor], tokens: Tensor, size: tuple[int, int]) -> Dense:
    return Dense(maps, tokens[:, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, size))


def _transformer_maps(visual: VisionTransformer, images: Tensor) -> Dense:
    """Four evenly spaced blocks of a CLIP transformer, and its tokens in the joint space."""
    patch = visual.patch_size[0]
    if images.shape[2] % patch or images.shape[3] % patch:
        sides = f"{images.shape[3]} x {images.shape[2]}"
        raise ValueError(f"pictures of {sides} pixels are no whole number of patches of {patch}: change view.size")
    hidden, size = first_tokens(visual, images)
    places = _spread(len(visual.transformer.resblocks))
    hidden, found = visual.transformer.forward_intermediates(hidden, indices=places)
    maps = [tokens[:, 1:].transpose(1, 2).unflatten(2, size) for tokens in found]
    return _with_tokens(maps, visual.ln_post(hidden) @ visual.proj, size)


def first_tokens(visual: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """What enters the first block of a CLIP transformer: class token and patches (B, 1 + h * w, width), and (h, w).

    Positions are resized where pictures have another size than those that it was trained on.
    """
    patches = visual.conv1(images)  # (B, width, h, w)
    size = (patches.shape[2], patches.shape[3])
    start = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    hidden = torch.cat([start, patches.flatten(2).transpose(1, 2)], dim=1)
    return visual.ln_pre(hidden + resized_positions(visual.positional_embedding, *size).to(hidden.dtype)), size


def _timm_maps(encoder: ImageEncoder, images: Tensor) -> list[Tensor]:
    """The last four sizes of a convolutional network, four evenly spaced blocks of a transformer."""
    info = encoder.model.feature_info
    alike = len({level["reduction"] for level in info}) == 1
    indices = _spread(len(info)) if alike else list(range(max(len(info) - LEVELS, 0), len(info)))
    images = images.contiguous(memory_format=torch.channels_last)
    return encoder.model.forward_intermediates(images, indices=indices, intermediates_only=True, output_fmt="NCHW")


def _spread(blocks: int) -> list[int]:
    """Numbers of four evenly spaced blocks, the last among them; fewer when there are fewer."""
    levels = min(LEVELS, blocks)
    return [round((level + 1) * blocks / levels) - 1 for level in range(levels)]


def pixel_text_scores(cells: Tensor, texts: Tensor) -> Tensor:
    """Cosines (B, K, h, w) of places (B, D, h, w) and texts (B, K, D): score map of Rao et al. 2022, section 3.2."""
    return torch.einsum("bdhw,bkd->bkhw", normalize(cells, dim=1), normalize(texts, dim=2))
