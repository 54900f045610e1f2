"""Error rates against an edit distance in loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.protocol import NotApplicable
from counterpoint.evaluation.protocols.transcription import Transcription
from counterpoint.evaluation.task import Task

SAID = ["Press the pound key.", "Thank you!", "agent", None, "...", "Merci beaucoup", "lost"]
HEARD = ["press a pound keys", "", "a gent", "noise", "noise", "merci beaucoup", None]
AUDIO = (np.zeros(10), 8000)


class _Parrot:
    """Says what it is told, and cannot read one row."""

    def transcribe(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
        for row in rows:
            text = HEARD[int(row["id"])]
            if text is None:
                raise BadRow("damaged")
            yield {"text": text, "seconds": 0.0}


def _rows(**columns: Any) -> Rows:
    rows = [{"id": str(n), "audio": AUDIO, "transcript": said, **columns} for n, said in enumerate(SAID)]
    return Rows.from_list(rows)


def _distance(first: Sequence[str], second: Sequence[str]) -> int:
    before = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        now = [i]
        for j, b in enumerate(second, 1):
            now.append(min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (a != b)))
        before = now
    return before[-1]


def test_rates_are_over_all_rows_together() -> None:
    task = Task(_Parrot(), _rows())
    found = Transcription().run(task)
    pairs = [
        ("press the pound key", "press a pound keys"),
        ("thank you", ""),
        ("agent", "a gent"),
        ("merci beaucoup", "merci beaucoup"),
    ]
    words = sum(_distance(said.split(), heard.split()) for said, heard in pairs)
    characters = sum(_distance(said, heard) for said, heard in pairs)
    assert found.scores["wer"] == pytest.approx(words / sum(len(said.split()) for said, _ in pairs))
    assert found.scores["cer"] == pytest.approx(characters / sum(len(said) for said, _ in pairs))
    assert found.chance == {"wer": 1.0, "cer": 1.0}
    assert found.notes["recordings"] == 4
    assert task.skipped == {"6": "damaged"}


def test_what_it_needs() -> None:
    with pytest.raises(NotApplicable, match="a model that transcribes"):
        Transcription().run(Task(object(), _rows()))
    silent = Rows.from_list([{"id": "3", "audio": AUDIO, "transcript": "?"}])
    with pytest.raises(NotApplicable, match="words in its transcript"):
        Transcription().run(Task(_Parrot(), silent))
    with pytest.raises(NotApplicable, match="'transcript'"):
        Transcription().check_columns(["audio", "label"])
