"""CLIP-like models: an image tower and a text tower with one joint space, from any of four sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from counterpoint.encoders import assets, open_clip_towers, transformers_towers
from counterpoint.encoders.base import Encoder, Trainable
from counterpoint.encoders.names import ModelName, parse_name, unknown_model
from counterpoint.encoders.pair_towers import PAIR_OPTIONS, PairTowers
from counterpoint.encoders.towers import Towers
from counterpoint.encoders.weights import load_weights

__all__ = ["FIXTURES", "ClipEncoder"]

FIXTURES = Path(__file__).parent / "fixtures"
"""Two tiny trained CLIPs that ship with the library: `vit` and `resnet`."""

_SCHEMES = ("open_clip", "hf", "fixture", "dual", "run")


class ClipEncoder(Encoder):
    """An image tower and a text tower with one joint space.

    Args:
        name: `open_clip:ARCH/TAG` (pretrained), `open_clip:ARCH` (fresh), `hf:ORG/NAME` (CLIP or SigLIP of the hub),
            `fixture:vit` or `fixture:resnet` (tiny ones that ship with the library), `dual:IMAGE+TEXT?dim=256` (an
            image encoder and a text encoder with trained projections; options: see `PairTowers`), `run:PATH`, or a
            folder in the format of open_clip or transformers.
        trainable: "all" (of a `dual:`, what its options leave trainable), "none", "head" (projections and logit scale),
            "last:N" blocks of both towers, or parameter-name prefixes.

    Attributes:
        dim: length of the joint vectors.
        size: side of the input pictures in pixels.
        mean, std: per-channel normalisation of pictures in [0, 1].
        towers: the two towers; the network itself is `towers.model`, or `towers.image` and `towers.text`.

    Raises:
        ValueError: no such model (the nearest names are given), or weights that cannot be had.
    """

    kind: ClassVar[str] = "clip"

    def __init__(self, name: str, *, trainable: Trainable = "all") -> None:
        super().__init__(name)
        asset = assets.find(self.kind, name)
        weights: dict[str, Tensor] | None = None
        if asset is not None:
            self.towers = _stored(asset)
        else:
            parsed = parse_name(name, _SCHEMES, PAIR_OPTIONS if name.startswith("dual:") else ())
            if parsed.scheme == "run":
                found = assets.of_run(parsed.rest, self.kind)
                weights = assets.run_weights(parsed.rest, found)
                with assets.loading(Path(parsed.rest).expanduser() / "assets"):
                    self.towers = _stored(found)
            else:
                self.towers = _from_name(parsed)
        if weights is not None:
            load_weights(self, weights, name)
        self.dim, self.size = self.towers.dim, self.towers.size
        self.mean, self.std = self.towers.mean, self.towers.std
        self.freeze(trainable)

    def _kept(self, trainable: Trainable) -> frozenset[str]:
        kept = super()._kept(trainable)
        if trainable == "all" and isinstance(self.towers, PairTowers):
            kept -= {f"towers.{name}" for name in self.towers.frozen_parameters()}
        return kept

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the factor on cosine similarities, a scalar."""
        return self.towers.scale()

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """What is added to the scaled similarities, for models trained with the sigmoid loss."""
        return self.towers.bias()

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) normalised -> (B, dim), not normalised."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(images.shape)}")
        return self.towers.encode_image(images)

    def encode_text(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens of `tokenize` -> (B, dim), not normalised."""
        return self.towers.encode_text(tokens)

    def image_tokens(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) normalised -> (B, N, dim): one joint vector per place, row by row, without class token."""
        return self.towers.image_tokens(images)

    def text_tokens(self, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens -> (B, L, dim) joint vectors of the tokens, and (B, L) bool, True at real tokens."""
        return self.towers.text_tokens(tokens), tokens["attention_mask"].bool()

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """B texts -> {"input_ids": (B, L) int64, "attention_mask": (B, L) int64}.

        Raises:
            ValueError: no texts. TypeError: something that is no string.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("texts must be a list of strings")
        if not len(texts):
            raise ValueError("texts is empty: give at least one")
        return self.towers.tokenize(texts)

    def head_parameters(self) -> list[str]:
        """The projections into the joint space, and the logit scale."""
        return [f"towers.{name}" for name in self.towers.head_parameters()]

    def text_parameters(self) -> list[str]:
        """The text tower with its projection."""
        return [f"towers.{name}" for name in self.towers.text_parameters()]

    def blocks(self) -> list[list[str]]:
        """The blocks of both towers side by side, the last with the last."""
        return [[f"towers.{name}" for name in block] for block in self.towers.blocks()]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """What its towers need."""
        return self.towers.save_assets(folder)


def _stored(asset: assets.Asset) -> Towers:
    source = asset.config["source"]
    if source == "dual":
        return PairTowers(parse_name(asset.config["pair"], _SCHEMES, PAIR_OPTIONS))
    if source == "transformers":
        return transformers_towers.stored(asset.folder, asset.config["preprocess"])
    return open_clip_towers.from_folder(asset.folder, weights=False)


def _from_name(name: ModelName) -> Towers:
    if name.scheme == "dual":
        return PairTowers(name)
    if name.scheme == "open_clip":
        return open_clip_towers.from_library(name.rest)
    if name.scheme == "hf":
        return transformers_towers.from_pretrained(name.rest, local=False)
    if name.scheme == "fixture":
        if not (FIXTURES / name.rest / open_clip_towers.CONFIG).is_file():
            raise unknown_model("fixture", name.rest, ["vit", "resnet"])
        return open_clip_towers.from_folder(FIXTURES / name.rest, weights=True)
    if name.scheme == "path":
        folder = Path(name.rest)
        if (folder / open_clip_towers.CONFIG).is_file():
            return open_clip_towers.from_folder(folder, weights=True)
        if transformers_towers.is_model(folder):
            return transformers_towers.from_pretrained(str(folder), local=True)
        raise ValueError(f"{folder} holds no CLIP-like model: neither open_clip_config.json nor a CLIP config.json")
    near = [f"open_clip:{name.rest}", f"hf:ORG/{name.rest}", "fixture:vit", "dual:resnet18+minilm"]
    raise ValueError(f"CLIP-like model {name.full!r} needs a prefix, such as {', '.join(near)}")
