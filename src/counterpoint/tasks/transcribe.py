"""Transcription: the characters that are said in a recording, from recordings with transcripts (CTC)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoint.data.recordings import decode, duration
from counterpoint.encoders.base import Trainable
from counterpoint.encoders.speech import SpeechEncoder
from counterpoint.system import Batch, Features, System, Term, with_own_rate
from counterpoint.views.audio import Perturb, SpecAugment, Utterance, pad_speech
from counterpoint.views.transcripts import TranscribedSpeech, characters_of, spelt

if TYPE_CHECKING:
    from counterpoint.data import Rows

__all__ = ["Transcribe", "quiet_place"]

_QUIET = 0.2
"""The part at the end of a window in which the quietest moment is looked for."""

_REST = 0.1
"""Seconds at the end of a long recording that are not worth a piece of their own."""


def quiet_place(samples: np.ndarray, rate: int) -> int:
    """Where to cut a piece of a recording (N,): the quietest fiftieth of a second of its last fifth."""
    step, first = max(1, rate // 50), int((1 - _QUIET) * len(samples))
    loudness = np.add.reduceat(samples[first:].astype(np.float64) ** 2, np.arange(0, len(samples) - first, step))
    whole = loudness[: (len(samples) - first) // step]  # the last one may be shorter, and only so quieter
    return first + (int(whole.argmin()) * step + step // 2 if len(whole) else 0)


class Transcribe(System):
    """Speech recognition from recordings with transcripts: CTC over their characters, over any speech encoder.

    The characters are those of the training transcripts in plain form (lower case, no punctuation), and the blank. The
    most probable symbol of every frame is taken (greedy decoding).

    Args:
        encoder: see `SpeechEncoder`; `run:PATH` takes a pre-trained one.
        trainable: what of the encoder learns, see `SpeechEncoder`.
        encoder_rate: learning rate of the encoder as a multiple of the head's.
        perturb: speed and noise of the training recordings.
        augment: bands and stretches of time that are hidden in training.
        longest: seconds of a training recording; longer ones are left out.
        window: seconds; longer recordings are transcribed in pieces that end in a quiet moment.

    Attributes:
        characters: in the order of the outputs, behind the blank.
    """

    paper = ""
    needs = ("audio", "transcript")
    couples = False
    modality = "speech"

    def __init__(
        self,
        encoder: str = "conformer:4x144x4?kernel=15",
        trainable: Trainable = "all",
        encoder_rate: float = 1.0,
        perturb: Perturb = Perturb(speed=(0.9, 1.0, 1.1)),  # noqa: B008 (frozen)
        augment: SpecAugment = SpecAugment(),  # noqa: B008 (frozen)
        longest: float = 30.0,
        window: float = 20.0,
    ) -> None:
        super().__init__()
        if not encoder_rate > 0 or not longest > 0 or not window > 0:
            raise ValueError(
                f"encoder_rate, longest and window must be above 0, got {encoder_rate}, {longest} and {window}"
            )
        self.encoder = SpeechEncoder(encoder, trainable=trainable)
        self.encoder_rate, self.perturb, self.augment = encoder_rate, perturb, augment
        self.longest, self.window = longest, window
        self.characters = ""
        self.head = nn.Linear(self.encoder.dim, 1)

    def views(self) -> TranscribedSpeech:
        """A recording, distorted, and what is said."""
        encoder = self.encoder
        return TranscribedSpeech(encoder.mel, encoder.stride, self.characters, self.longest, self.perturb, self.augment)

    def preprocess(self) -> Utterance:
        """The recording."""
        return Utterance(self.encoder.mel)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Padded to the longest; "targets" too, with "counts" (B,) of their characters."""
        batch = pad_speech(samples)
        if "targets" in batch:
            batch["counts"] = torch.tensor([len(sample["targets"]) for sample in samples])
        return batch

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """The characters of the transcripts.

        Raises:
            ValueError: there is none.
        """
        characters = characters_of(text for text in rows.column("transcript") if isinstance(text, str))
        if not characters:
            raise ValueError(f"{rows.name}: no transcript holds a letter or a digit, so there is nothing to learn")
        return {"characters": characters}

    def use(self, facts: Mapping[str, Any]) -> None:
        """One output for each character, and one for the blank."""
        self.characters = str(facts["characters"])
        head = nn.Linear(self.encoder.dim, 1 + len(self.characters))
        self.head = head.to(self.head.weight.device, self.head.weight.dtype)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder learns at its own rate."""
        return with_own_rate(super().parameter_groups(), self.encoder.parameters(), self.encoder_rate)

    def encode(self, batch: Batch) -> Features:
        """`logits` (B, T, 1 + C) with `frames` (B,); `targets` (B, L) with `counts` (B,)."""
        frames, lengths = self.encoder.frames(batch["features"], batch["lengths"])
        return {"logits": self.head(frames), "frames": lengths, "targets": batch["targets"], "counts": batch["counts"]}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """-log of the probability of all ways to spell a transcript, a mean over characters (Graves et al. 2006)."""
        logits, count = features["logits"], features["counts"].sum()
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        # On the CPU: the gradient on a GPU is not deterministic, and the scores of a batch are small.
        total = F.ctc_loss(
            logits.log_softmax(dim=2).transpose(0, 1).cpu(),
            features["targets"].cpu(),
            features["frames"].cpu(),
            features["counts"].cpu(),
            reduction="sum",
        )
        return {"ctc": Term(total.to(logits.device), count)}

    def embed(self, batch: Batch) -> Tensor:
        """(B, D), the mean over a recording's frames."""
        return self.encoder(batch["features"], batch["lengths"])

    def transcribe(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Rows -> for each "text", and "seconds" of the recording; one at a time, so that no row sees another.

        Raises:
            counterpoint.data.BadRow: a row that cannot be decoded.
        """
        for row in rows:
            texts, seconds, start = [], duration(row["audio"]), 0.0
            rate, audio = self.encoder.mel.rate, row["audio"]
            while start == 0 or seconds - start > _REST:
                samples = decode(audio, rate=rate, start=start, seconds=self.window, longest=self.window)
                cut = quiet_place(samples, rate) if start + self.window < seconds else len(samples)
                texts.append(self._spell(samples[:cut]))
                start += cut / rate
            yield {"text": " ".join(filter(None, texts)), "seconds": seconds}

    @torch.no_grad()
    def _spell(self, samples: np.ndarray) -> str:
        training = self.training
        features = torch.from_numpy(self.encoder.mel(samples))[None].to(self.device)
        try:
            self.eval()
            frames, _ = self.encoder.frames(features, torch.tensor([features.shape[1]], device=self.device))
            places = self.head(frames)[0].argmax(dim=1)
        finally:
            self.train(training)
        return spelt(places.tolist(), self.characters)
