"""FILIP: pictures and captions are compared patch by word, each with its best counterpart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from counterpoint.encoders.class_names import prompt_tokens
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.losses import late_interaction, late_interaction_similarity
from counterpoint.losses.late_interaction_variants import class_scores, select_tokens
from counterpoint.system import Batch, Features, System
from counterpoint.views.captions import Captioned, PictureOrText, collate_captioned
from counterpoint.views.image import OneView, Resize

__all__ = ["FILIP", "TEMPLATES"]

TEMPLATES = ("a photo of a {}.", "a photo of a {}. I like it.")
LARGEST_LOG_SCALE = math.log(100)


class FILIP(System):
    """Fine-grained contrast of pictures and captions by token-wise late interaction (arXiv 2111.07783).

    Args:
        encoder: a `ClipEncoder` with vectors per place and per word: `open_clip:ViT-B-32`, `dual:IMAGE+bert:4x256x4`.
        trainable: "all", "none", "head", "last:N" or parameter-name prefixes of the encoder.
        view: how a picture is cropped and distorted; its size and normalisation follow the encoder.
        temperature: where the learnt one starts; it stays in [0.01, 1].
        keep: share of the tokens of each sample that take part in the loss; the paper keeps 0.25 on many nodes.
    """

    paper = "FILIP: Fine-grained Interactive Language-Image Pre-Training (arXiv 2111.07783)"
    needs = ("image", "text")
    modality = "image-text"

    def __init__(
        self,
        encoder: str = "open_clip:ViT-B-32",
        trainable: str = "all",
        view: OneView = OneView(),  # noqa: B008 (frozen)
        temperature: float = 0.07,
        keep: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"keep={keep} must lie in (0, 1]: the share of the tokens that take part")
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.encoder = ClipEncoder(encoder, trainable=trainable)
        self.encoder.logit_scale.data.fill_(-math.log(temperature))
        self.view = replace(view, size=self.encoder.size, mean=self.encoder.mean, std=self.encoder.std)
        self.keep = keep
        self.length = self.encoder.tokenize(["a " * 1000])["input_ids"].shape[1]  # the longest caption it takes

    def views(self) -> Captioned:
        """A view of the picture and one of its captions."""
        return Captioned(self.view)

    def preprocess(self) -> PictureOrText:
        """Whatever the row has of picture and text."""
        return PictureOrText(Resize(self.encoder.size, self.encoder.mean, self.encoder.std))

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """`image` (B, 3, s, s), `input_ids` and `attention_mask` (B, L)."""
        return collate_captioned(samples, self.encoder.tokenize)

    def _words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, L, D) of the words, zero in the padding, and their mask (B, L)."""
        words, mask = self.encoder.text_tokens(batch)
        return normalize(words, dim=2) * mask[..., None], mask

    def encode(self, batch: Batch) -> Features:
        """Unit rows: image (B, n1, D), text (B, length, D) with its mask (B, length), True at real tokens."""
        words, mask = self._words(batch)
        missing = self.length - words.shape[1]
        image = normalize(self.encoder.image_tokens(batch["image"]), dim=2)
        # Every process pads to the same length, so that the rows of all of them can stand in one tensor.
        return {"image": image, "text": pad(words, (0, 0, 0, missing)), "mask": pad(mask, (0, missing))}

    def loss(self, features: Features) -> dict[str, Any]:
        """Late interaction between all pictures and all captions (section 3.1)."""
        image, text, mask = features["image"], features["text"], features["mask"]
        if self.keep < 1:
            # Over the batch of all processes: the paper selects before its gather, which depends on their number.
            choice = select_tokens(image, text, mask, ratio=self.keep)
            image = image.take_along_dim(choice.image_index[..., None], dim=1)
            text, mask = text.take_along_dim(choice.text_index[..., None], dim=1), choice.text_valid
        temperature = (-self.encoder.logit_scale).exp()
        return {"contrast": late_interaction(image, text, temperature=temperature, text_mask=mask)}

    def after_step(self, features: Features) -> None:
        """The temperature stays in [0.01, 1], as CLIP's does."""
        self.encoder.logit_scale.clamp_(0.0, LARGEST_LOG_SCALE)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """No weight decay for biases, norms, token and position embeddings, and the temperature."""
        tables = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)}
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        for name, parameter in self.named_parameters():
            position = any(
                word in name for word in ("pos_embed", "positional_embedding", "class_embedding", "cls_token")
            )
            kept = parameter.dim() > 1 and id(parameter) not in tables and not position
            if parameter.requires_grad:
                (decayed if kept else plain).append(parameter)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """image (B, n1, D) and text (B, L, D) unit tokens for `score`; embedding (B, D), the mean patch, for probes."""
        spaces: dict[str, Tensor] = {}
        if "image" in batch:
            patches = self.encoder.image_tokens(batch["image"])
            spaces |= {"embedding": patches.mean(dim=1), "image": normalize(patches, dim=2)}
        if "input_ids" in batch:
            spaces["text"] = self._words(batch)[0]
        return spaces

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(Q, n, D), (K, m, D) -> (Q, K): mean over the query's tokens of their best match; zero tokens are padding.

        Vectors (Q, D) count as one token. With a picture as query it is the paper's image-to-text score.
        """
        queries, keys = (rows if rows.dim() == 3 else rows[:, None] for rows in (queries.float(), keys.float()))
        masks = {"image_mask": queries.any(dim=2), "text_mask": keys.any(dim=2)}
        return late_interaction_similarity(normalize(queries, dim=2), normalize(keys, dim=2), **masks)[0]

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """Mean patch and mean word."""
        return features["image"].mean(dim=1), features["text"].sum(dim=1) / features["mask"].sum(dim=1, keepdim=True)

    @torch.no_grad()
    def classify(self, images: Tensor, class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> Tensor:
        """Zero-shot probabilities (N, C) of preprocessed pictures (N, 3, s, s): scores, not vectors, are averaged.

        Raises:
            ValueError: no class, no template, or a template without {}.
        """
        tokens = prompt_tokens(self.encoder, class_names, templates)
        words, mask = (rows.unflatten(0, (len(class_names), len(templates))) for rows in self._words(tokens))
        image = normalize(self.encoder.image_tokens(images.to(self.device)), dim=2)
        return (self.encoder.logit_scale.exp() * class_scores(image, words, mask)).softmax(dim=1)
