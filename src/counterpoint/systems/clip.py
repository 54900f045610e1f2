"""CLIP: pictures and their captions meet in one space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.class_names import prompt_tokens
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.losses import clip_loss, siglip_loss
from counterpoint.system import Batch, Features, System, with_own_rate
from counterpoint.views.captions import Captioned, PictureOrText, collate_captioned
from counterpoint.views.image import OneView, Resize

__all__ = ["CLIP", "TEMPLATES"]

TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven simple prompts of the authors' notebook."""


class CLIP(System):
    """Symmetric contrast of pictures and captions (arXiv 2103.00020), or its sigmoid form (SigLIP, arXiv 2303.15343).

    Args:
        encoder: any `ClipEncoder`: `open_clip:ARCH`, `hf:ORG/NAME`, `dual:resnet18+minilm?dim=256` ...
        trainable: "all", "none", "head", "last:N" or parameter-name prefixes of the encoder.
        objective: "softmax" picks the right caption among all of the batch, "sigmoid" judges every pair by itself.
        view: how a picture is cropped and distorted; its size and normalisation follow the encoder.
        caption_templates: sentences for captions that are mere names, as "a drawing of {}"; one is drawn each time.
        text_learning_rate: factor on the learning rate of the text tower and its projection. Small data teaches a
            pretrained text encoder's space away: a factor below 1 keeps words that were never seen near their like.
        largest_scale: bound of the factor on the cosines; the paper's is 100.
    """

    paper = "Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020)"
    needs = ("image", "text")
    modality = "image-text"

    def __init__(
        self,
        encoder: str = "open_clip:ViT-B-32",
        trainable: str = "all",
        objective: Literal["softmax", "sigmoid"] = "softmax",
        view: OneView = OneView(),  # noqa: B008 (frozen)
        caption_templates: Sequence[str] = (),
        text_learning_rate: float = 1.0,
        largest_scale: float = 100.0,
    ) -> None:
        super().__init__()
        if not text_learning_rate >= 0:
            raise ValueError(f"text_learning_rate must be >= 0, got {text_learning_rate}")
        if not largest_scale >= 1:
            raise ValueError(f"largest_scale must be >= 1, got {largest_scale}")
        self.caption_templates = tuple(caption_templates)
        self.text_learning_rate, self.largest_scale = text_learning_rate, largest_scale
        self.encoder = ClipEncoder(encoder, trainable=trainable)
        self.objective = objective
        self.view = replace(view, size=self.encoder.size, mean=self.encoder.mean, std=self.encoder.std)
        self.bias = None
        if objective == "sigmoid" and self.encoder.logit_bias is None:
            self.bias = nn.Parameter(torch.tensor(-10.0))
            self.encoder.logit_scale.data.fill_(math.log(10))

    def views(self) -> Captioned:
        """A view of the picture and one of its captions."""
        return Captioned(self.view, self.caption_templates)

    def preprocess(self) -> PictureOrText:
        """Whatever the row has of picture and text."""
        return PictureOrText(Resize(self.encoder.size, self.encoder.mean, self.encoder.std))

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """`image` (B, 3, s, s), `input_ids` and `attention_mask` (B, L)."""
        return collate_captioned(samples, self.encoder.tokenize)

    def encode(self, batch: Batch) -> Features:
        """Unit rows (B, D) of what the batch holds: image, text."""
        features = {}
        if "image" in batch:
            features["image"] = normalize(self.encoder.encode_image(batch["image"]), dim=1)
        if "input_ids" in batch:
            features["text"] = normalize(self.encoder.encode_text(batch), dim=1)
        return features

    def loss(self, features: Features) -> dict[str, Any]:
        """Every caption of the batch is a candidate for every picture, and the other way round."""
        image, text, scale = features["image"], features["text"], self.encoder.logit_scale.exp()
        if self.objective == "softmax":
            return {"contrast": clip_loss(image, text, logit_scale=scale)}
        bias = self.encoder.logit_bias if self.bias is None else self.bias
        assert bias is not None  # the constructor made one where the encoder has none
        return {"contrast": siglip_loss(image, text, logit_scale=scale, logit_bias=bias)}

    def after_step(self, features: Features) -> None:
        """The scale stays in [1, largest_scale]: its logarithm is clamped after the step, never in the forward pass."""
        self.encoder.logit_scale.clamp_(0.0, math.log(self.largest_scale))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The text tower learns at its own rate; biases, norms and the scale have no weight decay."""
        text = [self.encoder.get_parameter(name) for name in self.encoder.text_parameters()]
        return with_own_rate(super().parameter_groups(), text, self.text_learning_rate)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """image and text, unit rows (B, D), of what the batch holds."""
        return self.encode(batch)

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """Picture and caption."""
        return features["image"], features["text"]

    def pair_temperature(self) -> float:
        """One over the scale."""
        return float((-self.encoder.logit_scale.detach()).exp())

    def guess_level(self, rows: int) -> float:
        """ln of the candidates; for the sigmoid form ln 2 for each of them."""
        return math.log(max(rows, 1)) if self.objective == "softmax" else rows * math.log(2)

    @torch.no_grad()
    def classify(self, images: Tensor, class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
        """Zero-shot probabilities (N, C) of preprocessed pictures (N, 3, s, s), by prompts (section 3.1.4).

        A class is the normalised mean of its normalised prompts.

        Raises:
            ValueError: no class, no template, or a template without {}.
        """
        tokens = prompt_tokens(self.encoder, class_names, templates)
        texts = self.encode(tokens)["text"].unflatten(0, (len(class_names), len(templates)))  # (C, T, D)
        classes = normalize(texts.mean(dim=1), dim=1)
        cosines = self.encode({"image": images.to(self.device)})["image"] @ classes.T  # (N, C)
        return (self.encoder.logit_scale.exp() * cosines).softmax(dim=1)
