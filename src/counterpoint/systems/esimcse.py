"""ESimCSE: dropout pairs of different length, and a queue of recent sentences as further negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.encoders.dropout import set_dropout
from counterpoint.encoders.text import TextEncoder
from counterpoint.losses.simcse import esimcse_loss
from counterpoint.memory import MomentumEncoder, Queue
from counterpoint.system import Batch, Features, System
from counterpoint.views.sentences import SentencePair, collate_sentences

if TYPE_CHECKING:
    from counterpoint.data import Rows

__all__ = ["ESimCSE"]


class ESimCSE(System):
    """Sentence embeddings from plain sentences: dropout pairs of unequal length and a queue (2109.04380).

    `repetition=0 queue=0` is unsupervised SimCSE (EMNLP 2021), the paper's baseline.

    Args:
        encoder: where to start (`hf:bert-base-uncased`, `minilm`, `bert:2x128x2`, `run:PATH`, a folder).
        pooling: "cls" puts the paper's head (linear, tanh) on the first token, in training only; any other
            (`cls_before_pooler`, `avg`, `avg_top2`, `avg_first_last`) has no head.
        layers: first layers of the encoder that are kept; all by default.
        dropout: of the encoder, what makes the two views of a sentence differ; its own by default.
        max_length: sentences are cut to this many tokens; the repeated ones come on top.
        temperature: divides the cosines.
        repetition: bound of the share of (sub-)words that are written twice; 0 leaves the copy as it is.
        unit: what is repeated: "bpe" (ids, the paper's best) or "word" (before tokenising).
        redraw: draw the repetition anew in every epoch; False draws it once a row, as the official code does.
        queue: sentences of earlier steps that serve as negatives; 0 has neither queue nor momentum encoder.
        momentum: of the encoder that fills the queue.
    """

    paper = "ESimCSE: Enhanced Sample Building Method for Unsupervised Sentence Embedding (arXiv 2109.04380)"
    needs = ("text",)
    modality = "text"

    def __init__(
        self,
        encoder: str = "hf:bert-base-uncased",
        pooling: str = "cls",
        layers: int | None = None,
        dropout: float | None = None,
        max_length: int = 32,
        temperature: float = 0.05,
        repetition: float = 0.32,
        unit: Literal["bpe", "word"] = "bpe",
        redraw: bool = True,
        queue: int = 160,
        momentum: float = 0.995,
    ) -> None:
        super().__init__()
        self.encoder = TextEncoder(encoder, pooling=pooling, max_length=max_length, layers=layers)
        set_dropout(self.encoder, dropout)
        dim = self.encoder.dim
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) if pooling == "cls" else nn.Identity()
        self.temperature = temperature
        self.pairs = SentencePair(self.encoder.tokenizer, self.encoder.max_length, repetition, unit, redraw)
        # Copied after the weights are loaded; the official code copies before and so starts at random.
        self.slow = MomentumEncoder(self.encoder, momentum) if queue else None
        self.queue = Queue(queue, dim) if queue else None

    def views(self) -> SentencePair:
        """Sentence and copy."""
        return self.pairs

    def preprocess(self) -> Any:
        """The sentence alone."""
        return self.pairs.sentence

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """See `collate_sentences`."""
        return collate_sentences(samples, pad_id=self.pairs.tokenizer.pad_token_id or 0)

    def before_step(self) -> None:
        """The momentum encoder moves first, towards the weights before this step's update."""
        if self.slow is not None:
            self.slow.update(self.encoder)

    def encode(self, batch: Batch) -> Features:
        """`first`, `second` (B, D), and `slow` (B, D): the anchors as the momentum encoder sees them."""
        tokens = {name: batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask")}  # (2B, L)
        first, second = self.head(self.encoder(tokens)).unflatten(0, (-1, 2)).unbind(1)  # (B, D) each
        features = {"first": first, "second": second}
        if self.slow is not None:
            anchors = {name: batch[name][:, 0] for name in tokens}
            with torch.no_grad():  # no dropout; through the online head, which has no momentum copy
                features["slow"] = self.head(self.slow.eval()(anchors))
        return features

    def loss(self, features: Features) -> dict[str, Any]:
        """In-batch positives, and the queue of earlier steps, which is empty at the first."""
        queue = self.queue.rows() if self.queue is not None else None
        loss = esimcse_loss(features["first"], features["second"], queue=queue, temperature=self.temperature)
        return {"contrast": loss}

    def after_step(self, features: Features) -> None:
        """The step's anchors enter the queue, after they could have been their own negatives."""
        if self.queue is not None:
            self.queue.push(features["slow"])

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) pooled, without the head, not normalised."""
        return self.encoder({name: batch[name][:, 0] for name in ("input_ids", "attention_mask")})

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """Anchor and positive."""
        return features["first"], features["second"]

    def pair_temperature(self) -> float:
        """That of the loss."""
        return self.temperature

    def guess_level(self, rows: int) -> float:
        """ln of the candidates: batch and queue."""
        return math.log(max(1, rows + (len(self.queue) if self.queue is not None else 0)))

    @torch.no_grad()
    def measure_length_bias(self, rows: Rows, *, seed: int = 0, pairs: int = 4000) -> float:
        """Spearman correlation, over random pairs of rows, of cosine and minus the difference of lengths.

        The paper's complaint about SimCSE, section 1: 0 is unbiased. `pairs` pairs are drawn with `seed`.
        """
        from scipy.stats import spearmanr

        self.eval()
        samples = [self.pairs.sentence(row) for row in rows]
        batches = [self.collate(samples[start : start + 64]) for start in range(0, len(samples), 64)]
        device = self.device
        z = torch.cat([self.embed({name: t.to(device) for name, t in b.items()}) for b in batches]).cpu()  # (N, D)
        lengths = np.array([len(sample["sentences"][0]) for sample in samples])
        rng = np.random.default_rng(seed)
        left = rng.integers(0, len(rows), pairs)
        right = (left + rng.integers(1, len(rows), pairs)) % len(rows)
        cosines = torch.cosine_similarity(z[left], z[right]).numpy()
        return float(spearmanr(cosines, -np.abs(lengths[left] - lengths[right])).statistic)
