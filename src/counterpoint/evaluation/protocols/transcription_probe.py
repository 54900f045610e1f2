"""What a linear map reads off the frames of a speech encoder: the characters that are said."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.embedding import inference, to_device
from counterpoint.evaluation.error_rates import measured_error_rates
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task
from counterpoint.views.transcripts import characters_of, plain_transcript, spelt

__all__ = ["TranscriptionProbe"]

_HELD_OUT = 5
"""Where there are no training rows every so-manieth row is scored, and the others are learnt from."""


class _Said(NamedTuple):
    """Frames (T, D) of a recording, and what is said in it, plain."""

    frames: Tensor
    text: str


@dataclass(frozen=True)
class TranscriptionProbe(Protocol):
    """Error rates of a linear map from frozen frames to characters, learnt with CTC from a few recordings.

    Frames are brought to mean 0 and deviation 1 over the training recordings. AdamW, the rate falling linearly to 0;
    greedy decoding.

    Attributes:
        method: of the model: a batch -> frames (B, T, D) and their numbers (B,). "speech_frames" is what the encoder
            gives, "unit_frames" its units as one-hot vectors.
        recordings: at most so many are learnt from, the first usable ones; their frames are held in memory.
        longest: seconds; longer recordings are neither learnt from nor scored.
        steps: of the optimiser.
        batch: recordings a step.
        learning_rate: at the start.
    """

    columns: ClassVar[tuple[str, ...]] = ("audio", "transcript")
    default: ClassVar[bool] = False

    method: str = "speech_frames"
    recordings: int = 400
    longest: float = 5.0
    steps: int = 400
    batch: int = 48
    learning_rate: float = 1e-2

    def run(self, task: Task) -> Measured:
        """`wer` and `cer`; a guesser says nothing, which is all deletions."""
        if not hasattr(task.system, self.method):
            raise NotApplicable(f"needs a model of recordings (method {self.method})")
        rows, scored, source = _parts(task)
        train = self._frames(task, rows, self.recordings)
        characters = characters_of(said.text for said in train)
        targets = [torch.tensor([characters.find(c) + 1 for c in said.text]) for said in train]
        usable = [n for n, said in enumerate(train) if _fits(targets[n].tolist(), len(said.frames))]
        if len(usable) < 2:
            raise NotApplicable("needs at least two recordings with words to learn from")
        frames = [train[n].frames for n in usable]
        everything = torch.cat(frames)  # (all T, D)
        mean, deviation = everything.mean(dim=0), everything.std(dim=0).clamp(min=1e-4)
        head = self._learn(
            [(x - mean) / deviation for x in frames], [targets[n] for n in usable], characters, task.seed
        )
        test = self._frames(task, scored, None)
        with torch.no_grad():
            places = [head((said.frames - mean) / deviation).argmax(dim=1).tolist() for said in test]
        found = [spelt(best, characters) for best in places]
        notes = {"train": source, "train_recordings": len(usable), "characters": len(characters), "width": len(mean)}
        return measured_error_rates([said.text for said in test], found, **notes)

    def _frames(self, task: Task, rows: Rows, most: int | None) -> list[_Said]:
        """Of rows with words, one recording at a time."""
        found: list[_Said] = []
        system, preprocess = task.system, task.system.preprocess()
        with inference(system):
            for position, row in enumerate(rows.scan()):
                if most is not None and len(found) == most:
                    break
                try:
                    if isinstance(row, BadRow):
                        raise row
                    text = plain_transcript(row["transcript"] or "")
                    sample = preprocess(row) if text else None
                except BadRow as error:
                    task.skipped[rows.row_id(position)] = str(error)
                    continue
                if sample is not None and self._short(system, sample):
                    batch = to_device(system.collate([sample]), system.device)
                    frames, lengths = getattr(system, self.method)(batch)
                    found.append(_Said(frames[0, : int(lengths[0])].float().cpu(), text))
        return found

    def _short(self, system: Any, sample: dict[str, Any]) -> bool:
        return len(sample["features"]) * system.encoder.mel.hop <= self.longest

    def _learn(self, frames: list[Tensor], targets: list[Tensor], characters: str, seed: int) -> nn.Linear:
        rng = np.random.default_rng(seed)
        head = nn.Linear(frames[0].shape[1], 1 + len(characters))
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        optimiser = torch.optim.AdamW(head.parameters(), lr=self.learning_rate, weight_decay=1e-3)
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.steps)
            chosen = rng.permutation(len(frames))[: self.batch].tolist()
            said = [targets[n] for n in chosen]
            logits = head(pad_sequence([frames[n] for n in chosen]))  # (T, B, 1 + C)
            lengths, counts = ([len(part[n]) for n in chosen] for part in (frames, targets))
            loss = F.ctc_loss(
                logits.log_softmax(dim=2), torch.cat(said), torch.tensor(lengths), torch.tensor(counts), reduction="sum"
            )
            optimiser.zero_grad()
            (loss / sum(counts)).backward()
            optimiser.step()
        return head


def _fits(targets: list[int], frames: int) -> bool:
    """Whether the characters can be said in so many frames."""
    return bool(targets) and frames >= len(targets) + sum(first == second for first, second in pairwise(targets))


def _parts(task: Task) -> tuple[Rows, Rows, str]:
    """Rows to learn from, rows to score, and where the first come from."""
    if task.train_rows is not None and "transcript" in task.train_rows.columns:
        return task.train_rows, task.rows, task.train_source
    held_out = np.arange(len(task.rows)) % _HELD_OUT == 0
    return task.rows.select(~held_out), task.rows.select(held_out), "four fifths of the given rows"
