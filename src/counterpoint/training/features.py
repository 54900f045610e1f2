"""Features of pictures and class names from a frozen image-text encoder, for training-free estimators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import BadRow, Loader, Rows
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.evaluation.zero_shot import prompts, zero_shot_classifier
from counterpoint.training.randomness import derive
from counterpoint.views.image import OneView, Resize

__all__ = ["FeatureReader", "PictureFeatures", "text_features"]

_TEXTS_AT_ONCE = 256
_SUPPORT_SCALE = (0.5, 1.0)
"""Crops of the support pictures, as a share of the area."""


@dataclass(frozen=True)
class _Labelled:
    """A view of the picture with the row's label; -1 where none is needed."""

    view: OneView | Resize
    labelled: bool

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if not self.labelled:
            return {**self.view(row, rng), "label": -1}
        if row.get("label") is None:
            raise BadRow("no label")
        return {**self.view(row, rng), "label": int(row["label"])}


@dataclass(frozen=True)
class PictureFeatures:
    """Normalised features (N, D), labels (N,), the number of the picture each row is a copy of (N,), skipped rows."""

    values: Tensor
    labels: Tensor
    groups: Tensor
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class FeatureReader:
    """Reads rows into features of one encoder."""

    encoder: ClipEncoder
    batch: int
    workers: int
    seed: int
    max_skip_rate: float

    def read(self, rows: Rows, passes: int) -> PictureFeatures:
        """Features of all usable rows: `passes` random views each, or each once as it is when there are none."""
        encoder = self.encoder
        view: OneView | Resize = Resize(size=encoder.size, mean=encoder.mean, std=encoder.std)
        if passes:
            view = OneView(size=encoder.size, scale=_SUPPORT_SCALE, flip=0.5, mean=encoder.mean, std=encoder.std)
        loader = Loader(
            rows,
            _Labelled(view, "label" in rows.columns),
            batch=self.batch,
            seed=derive(self.seed, "support") % 2**32,
            workers=self.workers,
            shuffle=False,
            drop_last=False,
            max_skip_rate=self.max_skip_rate,
        )
        number = {rows.row_id(index): index for index in range(len(rows))}
        values, labels, groups = [], [], []
        device = next(encoder.parameters()).device
        for epoch in range(max(passes, 1)):
            for found in loader.batches(epoch):
                with torch.no_grad():
                    encoded = encoder.encode_image(found["image"].to(device)).float()  # (B, D)
                values.append(normalize(encoded, dim=1).cpu())
                labels.append(found["label"])
                groups.append(torch.tensor([number[name] for name in found["_ids"]]))
        if not values:
            raise ValueError(f"none of the {len(rows)} rows of {rows.name} could be used")
        return PictureFeatures(torch.cat(values), torch.cat(labels), torch.cat(groups), loader.skipped)


@torch.no_grad()
def text_features(encoder: ClipEncoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """(K, D): for each class the normalised mean of its normalised prompts."""
    texts = prompts([name.replace("_", " ") for name in names], templates)
    device = next(encoder.parameters()).device
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        tokens = encoder.tokenize(texts[start : start + _TEXTS_AT_ONCE])
        parts.append(encoder.encode_text({key: value.to(device) for key, value in tokens.items()}).float().cpu())
    features = torch.cat(parts).unflatten(0, (len(names), len(templates)))  # (K, T, D)
    return zero_shot_classifier(features).T.contiguous()
