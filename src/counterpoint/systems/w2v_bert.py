"""w2v-BERT: speech learns units of its own by contrast, and to name the units of what it cannot hear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from counterpoint.encoders.conformer import Conformer
from counterpoint.encoders.quantiser import Codebook, GumbelQuantiser, gumbel_noise, uniform_of_rows
from counterpoint.encoders.speech import SpeechEncoder
from counterpoint.losses import code_diversity, masked_contrast, masked_prediction
from counterpoint.losses.masked_frames import code_perplexity
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.audio import Cut, MaskedSpeech, Masking, Perturb, Utterance, pad_speech

if TYPE_CHECKING:
    from counterpoint.data import Rows

__all__ = ["W2vBERT"]


class W2vBERT(System):
    """Contrastive learning of discrete units and masked prediction of them, end to end (arXiv 2108.06209).

    Frames are told from those of their own recording alone, so their losses are summed recording by recording; how
    often the units are used is the one thing in which recordings meet.

    Args:
        encoder: a Conformer, see `SpeechEncoder`; all of it is what is kept after training.
        contrastive_layers: blocks of it that make up the contrastive module; the rest is the prediction module.
        codebook: number, length and choice of the units.
        masking: spans that are hidden, and the frames that they are told from.
        cut: how much of a long recording is used at a time.
        perturb: speed and noise.
        contrast_dim: length of the vectors that are contrasted.
        temperature: divides the cosines.
        contrastive_weight, prediction_weight: the paper's beta and gamma.
        diversity_weight: the paper's beta times alpha.
        mask_deviation: standard deviation of the random vectors in the place of what is hidden.
    """

    paper = (
        "W2v-BERT: Combining Contrastive Learning and Masked Language Modeling for Self-Supervised Speech Pre-Training "
        "(arXiv 2108.06209)"
    )
    needs = ("audio",)
    modality = "speech"

    def __init__(
        self,
        encoder: str = "conformer:24x1024x16",
        contrastive_layers: int = 12,
        codebook: Codebook = Codebook(),  # noqa: B008 (frozen)
        masking: Masking = Masking(),  # noqa: B008 (frozen)
        cut: Cut = Cut(),  # noqa: B008 (frozen)
        perturb: Perturb = Perturb(),  # noqa: B008 (frozen)
        contrast_dim: int = 768,
        temperature: float = 0.1,
        contrastive_weight: float = 1.0,
        diversity_weight: float = 0.1,
        prediction_weight: float = 1.0,
        mask_deviation: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = SpeechEncoder(encoder)
        if not isinstance(self.encoder.model, Conformer):
            raise ValueError(
                f"encoder must be a Conformer (conformer:..., or run: of one), {encoder!r} is another network"
            )
        layers, dim = len(self.encoder.model.blocks), self.encoder.dim
        if not 0 < contrastive_layers < layers:
            raise ValueError(f"contrastive_layers must be between 1 and {layers - 1}, got {contrastive_layers}")
        self.quantiser = GumbelQuantiser(dim, codebook)
        self.context, self.target = nn.Linear(dim, contrast_dim), nn.Linear(codebook.dim, contrast_dim)
        self.prediction = nn.Linear(dim, codebook.groups * codebook.codes)
        self.contrastive_layers, self.codebook, self.masking = contrastive_layers, codebook, masking
        self.cut, self.perturb, self.temperature, self.mask_deviation = cut, perturb, temperature, mask_deviation
        self.weights = (contrastive_weight, diversity_weight, prediction_weight)

    def views(self) -> MaskedSpeech:
        """A cut with hidden spans."""
        return MaskedSpeech(self.encoder.mel, self.encoder.stride, self.cut, self.perturb, self.masking)

    def preprocess(self) -> Utterance:
        """The recording."""
        return Utterance(self.encoder.mel)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Padded to the longest."""
        return pad_speech(samples)

    def hide(self, frames: Tensor, mask: Tensor, uniform: Tensor) -> Tensor:
        """(B, T, D) with Gaussian vectors in the place of hidden frames, made from uniform draws (B, T, D)."""
        gaussian = torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * math.sqrt(2.0)
        return torch.where(mask[..., None], self.mask_deviation * gaussian, frames)

    def encode(self, batch: Batch) -> Features:
        """Sums over the hidden frames of each recording: losses (B,), their `count`, and use of the units (B, G, V)."""
        model, mask = self.encoder.model, batch["mask"]
        frames, lengths = model.features(batch["features"], batch["lengths"])  # (B, T, D)
        groups, codes, dim = self.codebook.groups, self.codebook.codes, frames.shape[2]
        uniform = uniform_of_rows(batch["seed"], (frames.shape[1], dim + groups * codes), like=frames)
        noise = gumbel_noise(uniform[..., dim:]).unflatten(2, (groups, codes)) if self.training else None
        temperature = self.codebook.temperature(self.clock.step)
        units = self.quantiser(frames, noise, temperature=temperature)  # of what is there, hidden or not
        heard = model.start(self.hide(frames, mask, uniform[..., :dim]))
        context = model.through(heard, lengths, 0, self.contrastive_layers)
        guessed = self.prediction(model.through(context, lengths, self.contrastive_layers)).unflatten(
            2, (groups, codes)
        )
        vectors = normalize(self.context(context), dim=2), normalize(self.target(units.vectors), dim=2)
        contrast = masked_contrast(*vectors, units.codes, batch["distractors"], mask, temperature=self.temperature)
        first = mask.int().argmax(dim=1)[:, None, None].expand(-1, 1, vectors[0].shape[2])
        hidden = mask[..., None, None].to(frames.dtype)
        return {
            "contrastive": contrast,
            "prediction": masked_prediction(guessed, units.codes, mask),
            "count": mask.sum(dim=1),
            "usage": (units.probabilities * hidden).sum(dim=1),
            "chosen": (one_hot(units.codes, codes) * hidden).sum(dim=1),
            "first": vectors[0].gather(1, first)[:, 0],
            "second": vectors[1].gather(1, first)[:, 0],
        }

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Both losses as means over the hidden frames of all recordings, and the diversity of all that was hidden."""
        contrastive, diversity, prediction = self.weights
        count = features["count"].sum().clamp(min=1)
        return {
            "contrastive": Term.mean(
                features["contrastive"].sum() / count,
                weight=contrastive,
                guess=math.log(1 + self.masking.distractors) if contrastive else None,
            ),
            "diversity": Term.mean(code_diversity(features["usage"], features["count"]), weight=diversity),
            "prediction": Term.mean(
                features["prediction"].sum() / count,
                weight=prediction,
                guess=math.log(self.codebook.codes) if prediction else None,
            ),
            "perplexity": Term.mean(code_perplexity(features["chosen"], features["count"]), weight=0.0),  # to look at
        }

    def embed(self, batch: Batch) -> Tensor:
        """(B, D), the mean over a recording's frames."""
        return self.encoder(batch["features"], batch["lengths"])

    def pair(self, features: Features) -> tuple[Tensor, Tensor]:
        """The first hidden frame of each recording and its target."""
        return features["first"], features["second"]

    def speech_frames(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A preprocessed batch -> frames (B, T, D) and their numbers (B,)."""
        return self.encoder.frames(batch["features"], batch["lengths"])

    @torch.no_grad()
    def units(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A preprocessed batch -> units (B, T, G) int64 and their numbers (B,): recordings as sequences of units."""
        frames, lengths = self.encoder.model.features(batch["features"], batch["lengths"])
        return self.quantiser(frames).codes, lengths

    def unit_frames(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same as one-hot vectors (B, T, G V), those of all codebooks side by side."""
        codes, lengths = self.units(batch)
        return one_hot(codes, self.codebook.codes).flatten(2).float(), lengths

    def measure_perplexity(self, rows: Rows, *, seed: int = 0) -> float:
        """How many units are in use over all frames of recordings; 1 after a collapse."""
        preprocess, usage = self.eval().preprocess(), torch.zeros(1, self.codebook.groups, self.codebook.codes)
        for row in rows:
            batch = self.collate([preprocess(row)])
            codes, _ = self.units({name: value.to(self.device) for name, value in batch.items()})
            usage += one_hot(codes[0].cpu(), self.codebook.codes).sum(dim=0)
        return float(code_perplexity(usage, usage.sum().reshape(1) / self.codebook.groups))
