"""Made-up words: the same on every machine, told apart by ear, and by voices that are not shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from counterpoint.data import open_rows
from counterpoint.data.builtin import syllables
from counterpoint.data.recordings import decode, duration
from counterpoint.views.log_mel import LogMel


def test_counts_and_columns() -> None:
    counts = {split: len(open_rows(f"syllables:{split}")) for split in syllables.SPLITS}
    assert counts == {
        **{"train": 600, "validation": 120, "test": 240},
        **{"train-phrases": 600, "validation-phrases": 120, "test-phrases": 240},
        "all": 1920,
    }
    rows = open_rows("syllables:validation")
    assert rows.class_names == list(syllables.WORDS) and len(set(rows.column("label"))) == 24
    row = rows[3]
    assert row["transcript"] == syllables.WORDS[row["label"]]
    phrase = open_rows("syllables:test-phrases")[5]
    assert 2 <= len(phrase["transcript"].split()) <= 4
    assert phrase["transcript"].split()[0] == syllables.WORDS[phrase["label"]]


def test_voices_are_not_shared() -> None:
    voices = [set(open_rows(f"syllables:{split}").column("speaker")) for split in ("train", "validation", "test")]
    assert [len(found) for found in voices] == [7, 2, 3]
    assert not (voices[0] & voices[1] or voices[0] & voices[2] or voices[1] & voices[2])


def test_recordings_can_be_decoded_and_last_as_long_as_words_do() -> None:
    for split, least, most in (("validation", 0.3, 1.5), ("validation-phrases", 0.8, 4.5)):
        seconds = [duration(row["audio"]) for row in open_rows(f"syllables:{split}")[:40]]
        assert least < min(seconds) and max(seconds) < most
    samples = decode(open_rows("syllables:validation")[0]["audio"], rate=8000)
    assert 0.2 < np.abs(samples).max() <= 1


def test_words_are_told_apart_and_voices_change_them() -> None:
    """The nearest mean over time and voice of log-mel features in three parts of a word is that of its own word."""
    mel = LogMel(rate=8000, bins=20)

    def shape(row: dict[str, object]) -> np.ndarray:
        features = mel(decode(row["audio"], rate=8000))
        return np.concatenate([part.mean(axis=0) for part in np.array_split(features, 6)])

    train, test = (open_rows(f"syllables:{split}") for split in ("train", "test"))
    known = np.stack([shape(row) for row in train[:240]])
    labels = np.array(train.column("label"))[:240]
    centres = np.stack([known[labels == word].mean(axis=0) for word in range(24)])
    unheard = list(test[:96])  # by other voices
    right = [int(((centres - shape(row)) ** 2).sum(axis=1).argmin()) == row["label"] for row in unheard]
    assert np.mean(right) > 0.5  # a guesser: 0.04


def test_the_same_again_in_another_cache(own_cache: Path) -> None:
    row = syllables._phrase(["bado", "dime"], 3, np.random.default_rng(0))
    np.testing.assert_array_equal(row, syllables._phrase(["bado", "dime"], 3, np.random.default_rng(0)))
    assert not np.array_equal(row, syllables._phrase(["bado", "dime"], 4, np.random.default_rng(0)))
