"""The two towers of a CLIP-like model, as every source of them offers them to `ClipEncoder`."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["LOGIT_SCALE", "Towers"]

LOGIT_SCALE = math.log(1 / 0.07)
"""Start of the logarithmic scale (Radford et al. 2021, section 2.5)."""

Tokens = Mapping[str, Tensor]


class Towers(nn.Module):
    """An image tower and a text tower with one joint space.

    Attributes:
        dim: length of the joint vectors.
        size: side of the input pictures in pixels.
        mean, std: per-channel normalisation of pictures in [0, 1].
    """

    dim: int
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, dim)."""

    @abstractmethod
    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens -> (B, dim)."""

    @abstractmethod
    def image_tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, N, dim): one joint vector per place of the picture."""

    @abstractmethod
    def text_tokens(self, tokens: Tokens) -> Tensor:
        """Tokens -> (B, L, dim): one joint vector per token."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """B texts -> {"input_ids": (B, L) int64, "attention_mask": (B, L) int64}."""

    @abstractmethod
    def scale(self) -> nn.Parameter:
        """The logarithm of the factor on cosine similarities, a scalar."""

    def bias(self) -> nn.Parameter | None:
        """What is added to the scaled similarities (sigmoid losses), if the model has it."""
        return None

    @abstractmethod
    def head_parameters(self) -> list[str]:
        """Names of the parameters that project into the joint space, and of scale and bias."""

    @abstractmethod
    def text_parameters(self) -> list[str]:
        """Names of the parameters of the text tower, its projection included."""

    def blocks(self) -> list[list[str]]:
        """Names of the parameters of the n-th block of both towers together, aligned at their ends."""
        return []

    @abstractmethod
    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Write what is needed to build the towers again; returns what goes into config.json."""


def joined_blocks(image: list[list[str]], text: list[list[str]]) -> list[list[str]]:
    """Blocks of two towers side by side, the last with the last."""
    depth = max(len(image), len(text))
    image = [[]] * (depth - len(image)) + image
    text = [[]] * (depth - len(text)) + text
    return [first + second for first, second in zip(image, text, strict=True)]


def matching(module: nn.Module, prefixes: Sequence[str]) -> list[str]:
    """Names of the parameters that start with one of the prefixes."""
    return [name for name, _ in module.named_parameters() if name.startswith(tuple(prefixes))]


def layer_blocks(module: nn.Module, layers: str) -> list[list[str]]:
    """Names of the parameters of each child of the list of layers called `layers`."""
    count = len(list(module.get_submodule(layers).children()))
    return [matching(module, [f"{layers}.{index}."]) for index in range(count)]


def new_scale() -> nn.Parameter:
    """A logit scale at its usual start."""
    return nn.Parameter(torch.tensor(LOGIT_SCALE))
