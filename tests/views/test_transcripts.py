"""Transcripts as characters, and characters as transcripts."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.data import BadRow
from counterpoint.views.audio import Perturb, SpecAugment
from counterpoint.views.log_mel import LogMel
from counterpoint.views.transcripts import TranscribedSpeech, characters_of, plain_transcript, spelt

SOUND = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
VIEW = TranscribedSpeech(LogMel(rate=8000, bins=24), 4, " abd", 5.0, None, None)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("That agent is  already logged-on.", "that agent is already logged on"),
        ("Vous n’êtes plus en ligne.", "vous n'êtes plus en ligne"),
        ("'Tis the dogs' \"bowl\"", "tis the dogs bowl"),
        ("Нажмите решётку!", "нажмите решётку"),
        ("press 1, then #", "press 1 then"),
        ("ﬁve\tＡ\n", "five a"),
        ("cafe\u0301", "caf\u00e9"),
        ("हिन्दी में", "हिन्दी में"),
        ("...!?", ""),
        ("' '", ""),
    ],
)
def test_plain_form(text: str, plain: str) -> None:
    assert plain_transcript(text) == plain
    assert plain_transcript(plain) == plain


def test_characters() -> None:
    assert characters_of(["Bad!", "ad b"]) == " abd"
    assert characters_of(["?"]) == ""


def test_runs_become_one_and_blanks_vanish() -> None:
    assert spelt([0, 3, 3, 0, 2, 2, 0, 2, 4, 0], " abd") == "baad"
    assert spelt([1, 2, 1, 1, 0, 1, 3, 1], " abd") == "a b"
    assert spelt([0, 0], " abd") == spelt([], " abd") == ""


def test_a_sample() -> None:
    sample = VIEW({"id": "a", "audio": (SOUND, 8000), "transcript": "Bad, ab!"}, np.random.default_rng(0))
    assert sample["targets"].tolist() == [3, 2, 4, 1, 2, 3]
    assert sample["features"].shape == (198, 24)
    distorted = TranscribedSpeech(VIEW.mel, 4, " abd", 5.0, Perturb(speed=(1.25,)), SpecAugment(bands=1, width=10))
    sample = distorted({"id": "a", "audio": (SOUND, 8000), "transcript": "bad"}, np.random.default_rng(1))
    assert sample["features"].shape == (158, 24) and (sample["features"] == 0).all(dim=0).any()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"transcript": "..."}, "no words"),
        ({"transcript": None}, "no words"),
        ({}, "no words"),
        ({"transcript": "bade"}, "character 'e'"),
        ({"transcript": "bad " * 20}, "79 characters cannot be said in 49 frames"),
        ({"transcript": "a" * 26}, "26 characters cannot be said"),  # a blank between any two
        ({"transcript": "bad", "audio": (np.tile(SOUND, 3), 8000)}, "6 s of sound are more than the limit of 5"),
        ({"transcript": "bad", "audio": b"no sound"}, "not a recording"),
    ],
)
def test_rows_that_teach_nothing(row: dict[str, object], reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        VIEW({"id": "a", "audio": (SOUND, 8000), **row}, np.random.default_rng(0))
    VIEW({"id": "a", "audio": (SOUND, 8000), "transcript": "a" * 25}, np.random.default_rng(0))
