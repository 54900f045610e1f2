"""Towers built from an image encoder and a text encoder, each with a trained projection into the joint space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders.frozen_texts import FrozenTexts
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.names import ModelName
from counterpoint.encoders.text import TextEncoder
from counterpoint.encoders.towers import Tokens, Towers, joined_blocks, matching, new_scale

__all__ = ["PAIR_OPTIONS", "PairTowers"]

PAIR_OPTIONS = ("dim", "size", "length", "image", "text", "cache", "dropout")


class PairTowers(Towers):
    """`dual:IMAGE+TEXT?dim=256`: two encoders with linear projections (the image's without bias).

    Options of the name: `dim` of the joint space (256), `size` of the picture in pixels, `length` of the longest text
    in tokens (32), `image` and `text`: what of each encoder is trained ("all", "none", "last:N"), `dropout` of the
    pooled picture before its projection (0). A text encoder with pretrained weights is frozen unless `text=` says
    otherwise; with `dim` equal to its width its projection starts as the identity. While training, the vectors of a
    wholly frozen text encoder are remembered (`cache=no` turns that off): captions come back every epoch.
    """

    def __init__(self, name: ModelName) -> None:
        super().__init__()
        self.name = name.full
        image_name, plus, text_name = name.rest.partition("+")
        if not plus or not image_name or not text_name:
            raise ValueError(f"{name.full!r}: write dual:IMAGE+TEXT, for example dual:resnet18+minilm?dim=256")
        if "size" in name.options:
            image_name += f"?size={name.whole('size', 224)}"
        fresh = text_name.startswith("bert:")
        self.image = ImageEncoder(image_name, trainable=name.options.get("image", "all"))
        self.text = TextEncoder(
            text_name,
            max_length=name.whole("length", 32),
            trainable=name.options.get("text", "all" if fresh else "none"),
        )
        self.remembered = FrozenTexts() if name.flag("cache", default=True) else None
        self.dim = name.whole("dim", 256)
        self.dropout = nn.Dropout(name.share("dropout", 0.0))
        self.image_projection = nn.Linear(self.image.dim, self.dim, bias=False)
        self.text_projection = nn.Linear(self.text.dim, self.dim)
        if self.dim == self.text.dim:  # texts that are near in a pretrained encoder stay near from the first step
            nn.init.eye_(self.text_projection.weight)
            nn.init.zeros_(self.text_projection.bias)
        self.logit_scale = new_scale()
        self.size, self.mean, self.std = self.image.size, self.image.mean, self.image.std

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, dim)."""
        return self.image_projection(self.dropout(self.image(images)))

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens -> (B, dim)."""
        if self.remembered is not None and self.training and self._text_is_frozen():
            return self.text_projection(self.remembered(self.text, tokens))
        return self.text_projection(self.text(tokens))

    def _text_is_frozen(self) -> bool:
        return not self.text.training and not any(parameter.requires_grad for parameter in self.text.parameters())

    def image_tokens(self, images: Tensor) -> Tensor:
        """One joint vector per place of the last feature map."""
        features = self.image.tokens(images)
        if features.shape[-1] != self.image.dim:
            raise ValueError(f"{self.image.name!r} changes its width after pooling: it has no joint vectors per place")
        return self.image_projection(features)

    def text_tokens(self, tokens: Tokens) -> Tensor:
        """The last hidden states, projected."""
        return self.text_projection(self.text.hidden_states(tokens)[-1])

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """B texts -> ids and mask, (B, L) int64 each."""
        return self.text.tokenize(texts)

    def scale(self) -> nn.Parameter:
        """The model's own logit scale."""
        return self.logit_scale

    def head_parameters(self) -> list[str]:
        """Projections, scale and bias."""
        return ["image_projection.weight", "text_projection.weight", "text_projection.bias", "logit_scale"]

    def text_parameters(self) -> list[str]:
        """The text encoder and its projection."""
        return matching(self, ["text.", "text_projection."])

    def blocks(self) -> list[list[str]]:
        """Blocks of both towers side by side."""
        image = [[f"image.{name}" for name in block] for block in self.image.blocks()]
        return joined_blocks(image, [[f"text.{name}" for name in block] for block in self.text.blocks()])

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Nothing of its own: both encoders store theirs."""
        return {"source": "dual", "pair": self.name}

    def frozen_parameters(self) -> frozenset[str]:
        """Names of the parameters that the two encoders keep frozen."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return frozenset(name for name, _ in self.named_parameters()) - trained
