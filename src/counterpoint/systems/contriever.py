"""Contriever: dense retrieval without labels, from two random crops of one document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.dropout import set_dropout
from counterpoint.encoders.text import TextEncoder
from counterpoint.losses import info_nce, moco_loss
from counterpoint.memory import MomentumEncoder, Queue
from counterpoint.system import Batch, Features, System
from counterpoint.views.documents import CropPair, Crops, Labelled, LabelledPair, TextReader
from counterpoint.views.text import pad_tokens

__all__ = ["Contriever"]


class Contriever(System):
    """Dense retrieval from unlabelled documents: two random crops of one text are a pair (arXiv 2112.09118).

    Args:
        encoder: where to start (`hf:bert-base-uncased`, `minilm`, `bert:2x128x2`, `run:PATH`, a folder);
            queries and documents share it.
        pooling: "mean" over all tokens, special ones included, or "cls".
        layers: first layers of the encoder that are kept; all by default.
        dropout: of the encoder; its own by default.
        max_length: longer texts are cut.
        mode: "moco" contrasts with a queue of earlier keys, "inbatch" with the other keys of the batch,
            "finetune" is "inbatch" on rows with `query`, `positive`, `negative`, `hard_negative`.
        crops: how two views are made of a document.
        labelled: how negatives are drawn in fine-tuning.
        temperature: divides the dot products.
        queue: keys of earlier steps, for "moco"; full of unit Gaussian rows at the start.
        momentum: of the key encoder, for "moco".
        key_dropout: dropout in the key encoder, as in the published runs.
        normalise: which vectors get unit length: "none" (the paper), "query", "document" or "both".
        label_smoothing: in [0, 1).
    """

    paper = "Unsupervised Dense Information Retrieval with Contrastive Learning (arXiv 2112.09118)"
    needs: ClassVar[tuple[str, ...]] = ("text",)
    modality = "text"

    def __init__(
        self,
        encoder: str = "hf:bert-base-uncased",
        pooling: str = "mean",
        layers: int | None = None,
        dropout: float | None = None,
        max_length: int = 512,
        mode: Literal["moco", "inbatch", "finetune"] = "moco",
        crops: Crops = Crops(),  # noqa: B008 (frozen)
        labelled: Labelled = Labelled(),  # noqa: B008 (frozen)
        temperature: float = 0.05,
        queue: int = 131072,
        momentum: float = 0.9995,
        key_dropout: bool = True,
        normalise: Literal["none", "query", "document", "both"] = "none",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = TextEncoder(encoder, pooling=pooling, max_length=max_length, layers=layers)
        set_dropout(self.encoder, dropout)
        self.slow = MomentumEncoder(self.encoder, momentum) if mode == "moco" else None
        self.queue = Queue(queue, self.encoder.dim, normalised_start=True) if mode == "moco" else None
        self.mode, self.crops, self.labelled = mode, crops, labelled
        self.temperature, self.label_smoothing = temperature, label_smoothing
        self.key_dropout, self.normalise = key_dropout, normalise
        self.reader = TextReader(self.encoder.tokenizer, self.encoder.max_length)
        if mode == "finetune":
            self.needs = ("query", "positive")  # type: ignore[misc]

    def views(self) -> CropPair | LabelledPair:
        """Two views of a document, or a query and its passages."""
        if self.mode == "finetune":
            return LabelledPair(self.reader.tokenizer, self.reader.max_length, self.labelled)
        return CropPair(self.reader.tokenizer, self.reader.max_length, self.crops)

    def preprocess(self) -> Any:
        """Title and text."""
        return self.reader.document

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """`<name>_ids`, `<name>_mask` (B, L) for each text, (B, H, L) for H negatives, padded by itself."""
        pad_id = self.reader.tokenizer.pad_token_id or 0
        batch = {}
        for name, value in samples[0].items():
            many = isinstance(value, list)
            rows = [ids for s in samples for ids in s[name]] if many else [s[name] for s in samples]
            padded = pad_tokens(rows, pad_id=pad_id)
            for part, tensor in zip(("ids", "mask"), padded, strict=True):
                batch[f"{name}_{part}"] = tensor.unflatten(0, (len(samples), -1)) if many else tensor
        return batch

    def before_step(self) -> None:
        """The key encoder moves first, towards the weights before this step's update."""
        if self.slow is not None:
            self.slow.update(self.encoder)

    def _vectors(self, encoder: torch.nn.Module, batch: Batch, name: str) -> Tensor:
        ids, mask = batch[f"{name}_ids"], batch[f"{name}_mask"]
        vectors = encoder({"input_ids": ids.flatten(0, -2), "attention_mask": mask.flatten(0, -2)})
        unit = self.normalise in ("both", "query" if name == "query" else "document")
        vectors = normalize(vectors, dim=-1) if unit else vectors
        return vectors.unflatten(0, ids.shape[:-1])

    def encode(self, batch: Batch) -> Features:
        """`query`, `key` (B, D), `negatives` (B, H, D) in fine-tuning; no gradient through MoCo's keys."""
        features = {"query": self._vectors(self.encoder, batch, "query")}
        if self.slow is not None:
            self.slow.train(self.training and self.key_dropout)
            features["key"] = self._vectors(self.slow, batch, "key")
        else:
            features["key"] = self._vectors(self.encoder, batch, "key")
        if "negatives_ids" in batch:
            features["negatives"] = self._vectors(self.encoder, batch, "negatives")
        return features

    def loss(self, features: Features) -> dict[str, Any]:
        """MoCo: own key against the queue of earlier steps; else against all keys and all negatives."""
        query, key, negatives = features["query"], features["key"], features.get("negatives")
        temperature, smoothing = self.temperature, self.label_smoothing
        if self.queue is not None:
            rows = self.queue.rows()  # (M, D)
            loss = moco_loss(query, key, rows, label_smoothing=smoothing, temperature=temperature)
            return {"contrast": loss}
        others = None if negatives is None else negatives.flatten(0, 1)  # (B H, D): those of every query
        loss = info_nce(query, key, negatives=others, label_smoothing=smoothing, temperature=temperature)
        return {"contrast": loss}

    def after_step(self, features: Features) -> None:
        """The keys of this step enter the queue."""
        if self.queue is not None:
            self.queue.push(features["key"])

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) by the query encoder, which serves both sides."""
        return self._vectors(self.encoder, batch, "text")

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """Query and key."""
        return features["query"], features["key"]

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Dot products."""
        return queries.float() @ keys.float().T

    def guess_level(self, rows: int) -> float:
        """ln of the candidates: own key and queue, or the keys and negatives of the batch."""
        if self.queue is not None:
            return math.log(1 + len(self.queue))
        return math.log(max(1, rows * (1 + (self.labelled.negatives if self.mode == "finetune" else 0))))
