"""What is said in a recording, as the characters a network spells it with."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from counterpoint.data import BadRow
from counterpoint.data.recordings import decode
from counterpoint.views.audio import Perturb, SpecAugment
from counterpoint.views.log_mel import LogMel

if TYPE_CHECKING:
    from counterpoint.data import Row

__all__ = ["TranscribedSpeech", "characters_of", "plain_transcript", "spelt"]

_APOSTROPHES = re.compile("[\u2018\u2019\u02bc\uff07`\u00b4]")


def plain_transcript(text: str) -> str:
    """Lower case, letters with their marks, digits and apostrophes inside words; one space for everything else."""
    text = _APOSTROPHES.sub("'", unicodedata.normalize("NFKC", text).lower())
    kept = [c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in unicodedata.normalize("NFC", text)]
    words = ("".join(kept)).split()
    return " ".join(word for word in (word.strip("'") for word in words) if word)


def characters_of(transcripts: Iterable[str]) -> str:
    """The characters of plain transcripts, each once, sorted."""
    return "".join(sorted({character for text in transcripts for character in plain_transcript(text)}))


def spelt(places: Sequence[int], characters: str) -> str:
    """Best symbols frame by frame, 0 the blank -> text: runs become one, blanks vanish (Graves et al. 2006)."""
    kept = [now for before, now in pairwise([0, *places]) if now and now != before]
    return " ".join("".join(characters[place - 1] for place in kept).split())


@dataclass(frozen=True)
class TranscribedSpeech:
    """Features of a recording and the characters that are said in it.

    Attributes:
        mel: the features.
        stride: windows that become one frame of the encoder.
        characters: in the order of their numbers, from 1; 0 is the blank.
        longest: seconds; longer recordings are refused, as nobody knows which part of the transcript a cut has.
        perturb: speed and noise; None leaves both alone.
        augment: bands and stretches of time that are hidden; None hides nothing.
    """

    mel: LogMel
    stride: int
    characters: str
    longest: float
    perturb: Perturb | None
    augment: SpecAugment | None

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> "features" (T, bins), "targets" (L,) int64 numbers of characters.

        Raises:
            BadRow: not a recording, too long, or without a transcript that could be said in it.
        """
        said = row.get("transcript")
        text = plain_transcript(said) if isinstance(said, str) else ""
        targets = [self.characters.find(character) + 1 for character in text]
        if not targets:
            raise BadRow("no words in the column 'transcript'")
        if 0 in targets:
            raise BadRow(f"its transcript has the character {text[targets.index(0)]!r}, which no transcript had before")
        samples = decode(row["audio"], rate=self.mel.rate, longest=self.longest)
        samples = self.perturb(samples, rng) if self.perturb is not None else samples
        features = self.mel(samples)
        frames = len(features) // self.stride
        if frames < len(targets) + sum(first == second for first, second in pairwise(targets)):
            raise BadRow(f"{len(targets)} characters cannot be said in {frames} frames: is it the right transcript?")
        features = self.augment(features, rng) if self.augment is not None else features
        return {"features": torch.from_numpy(features), "targets": torch.tensor(targets)}
