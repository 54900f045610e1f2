"""The probe on made frames, whose characters are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.protocol import NotApplicable
from counterpoint.evaluation.protocols.transcription_probe import TranscriptionProbe
from counterpoint.evaluation.task import Task
from counterpoint.views.audio import pad_speech

LETTERS = "abc "


class _Telegraph(nn.Module):
    """Recordings are their own transcripts: two frames of a letter's number in one band, then a pause."""

    device = torch.device("cpu")
    encoder = SimpleNamespace(mel=SimpleNamespace(hop=0.01))

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def preprocess(self) -> Any:
        def heard(row: Mapping[str, Any]) -> dict[str, Tensor]:
            if row["audio"] == "?":
                raise BadRow("damaged")
            frames = torch.zeros(3 * len(row["audio"]), 5)
            for place, letter in enumerate(row["audio"]):
                frames[3 * place : 3 * place + 2, LETTERS.index(letter)] = 1.0
            return {"features": frames}

        return heard

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return pad_speech(samples)

    def speech_frames(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        noise = torch.randn(batch["features"].shape, generator=torch.Generator().manual_seed(0))
        return batch["features"] + self.noise * noise, batch["lengths"]


def _rows(count: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abc"), rng.integers(2, 6))) for _ in range(count)]
    return Rows.from_list([{"id": str(n), "audio": word, "transcript": word.upper()} for n, word in enumerate(words)])


def test_what_is_linear_is_read() -> None:
    settings = {"steps": 150, "learning_rate": 0.05}
    clear = TranscriptionProbe(**settings).run(Task(_Telegraph(0.0), _rows(20), train_rows=_rows(60, 1)))
    assert clear.scores["cer"] < 0.05 and clear.chance == {"wer": 1.0, "cer": 1.0}
    assert clear.notes["train_recordings"] == 60 and clear.notes["recordings"] == 20 and clear.notes["width"] == 5
    blurred = TranscriptionProbe(**settings).run(Task(_Telegraph(5.0), _rows(20), train_rows=_rows(60, 1)))
    assert blurred.scores["cer"] > 0.5


def test_without_training_rows_a_fifth_is_scored() -> None:
    found = TranscriptionProbe(steps=2).run(Task(_Telegraph(0.0), _rows(50)))
    assert (found.notes["recordings"], found.notes["train_recordings"]) == (10, 40)


def test_rows_that_are_left_out() -> None:
    odd = [{"id": "bad", "audio": "?", "transcript": "ab"}, {"id": "mute", "audio": "ab", "transcript": "..."}]
    long = [{"id": "long", "audio": "a" * 20, "transcript": "a"}, {"id": "much", "audio": "a", "transcript": "abcabc"}]
    task = Task(_Telegraph(0.0), _rows(5), train_rows=Rows.from_list([*odd, *long, *_rows(30)]))
    found = TranscriptionProbe(steps=2, longest=0.5).run(task)
    assert found.notes["train_recordings"] == 30 and task.skipped == {"bad": "damaged"}
    limited = TranscriptionProbe(steps=2, recordings=7).run(Task(_Telegraph(0.0), _rows(5), train_rows=_rows(30)))
    assert limited.notes["train_recordings"] == 7


def test_the_same_seed_gives_the_same_score() -> None:
    scores = [
        TranscriptionProbe(steps=20).run(Task(_Telegraph(1.0), _rows(20), train_rows=_rows(60, 1), seed=seed)).scores
        for seed in (0, 0)
    ]
    assert scores[0] == scores[1]


def test_what_it_needs() -> None:
    with pytest.raises(NotApplicable, match="method unit_frames"):
        TranscriptionProbe(method="unit_frames").run(Task(_Telegraph(0.0), _rows(5)))
    with pytest.raises(NotApplicable, match="at least two recordings"):
        TranscriptionProbe().run(Task(_Telegraph(0.0), _rows(1)))
    assert not TranscriptionProbe.default
