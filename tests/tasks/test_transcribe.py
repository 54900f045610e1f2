"""Transcription: the loss against all paths, characters found in the data, long recordings, runs and predictions."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import counterpoint
from counterpoint.data import BadRow, open_rows
from counterpoint.encoders.speech import SpeechEncoder
from counterpoint.run import Run, load
from counterpoint.tasks.transcribe import Transcribe, quiet_place
from counterpoint.views.audio import Perturb, SpecAugment

ENCODER = "conformer:1x16x2?kernel=3&bins=20&rate=8000&dropout=0"
PLAIN = {"perturb": Perturb(), "augment": SpecAugment(bands=0, stretches=0)}
SOUND = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)


def _system(**arguments: object) -> Transcribe:
    torch.manual_seed(0)
    system = Transcribe(ENCODER, **{**PLAIN, **arguments})  # type: ignore[arg-type]
    system.use({"characters": " ab"})
    return system


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of wav files with transcripts, and one that is no recording."""
    folder = tmp_path_factory.mktemp("recordings")
    lines = ["audio,transcript"]
    for place, row in enumerate(open_rows("syllables:validation")[:24]):
        (folder / f"{place:02d}.wav").write_bytes(row["audio"])
        lines.append(f"{place:02d}.wav,{row['transcript'].title()}!")
    (folder / "24.wav").write_bytes(b"RIFF not a recording")
    (folder / "table.csv").write_text("\n".join([*lines, "24.wav,bado"]) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "words"
    return counterpoint.train(
        "transcribe",
        str(recordings / "table.csv"),
        out=out,
        recipe="tiny",
        arguments={"encoder": "conformer:1x32x2?kernel=5&bins=24&rate=8000&dropout=0"},
        overrides={"steps": 260, "learning_rate": 1e-2, "schedule": "constant", "log_every": 20},
        quiet=True,
    )


def test_the_loss_is_that_of_all_ways_to_spell_the_transcript() -> None:
    system = _system()
    logits = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = 0.0
    for scores, frames, said in ((logits[0], 5, (2, 3)), (logits[1], 3, (2,))):
        likely = scores.softmax(dim=1)
        paths = itertools.product(range(4), repeat=frames)
        total = 0.0
        for path in paths:
            runs = [symbol for symbol, _ in itertools.groupby(path)]
            if tuple(symbol for symbol in runs if symbol) == said:
                total += math.prod(float(likely[t, symbol]) for t, symbol in enumerate(path))
        wanted -= math.log(total)
    features = {
        "logits": logits,
        "frames": torch.tensor([5, 3]),
        "targets": torch.tensor([[2, 3], [2, 0]]),
        "counts": torch.tensor([2, 1]),
    }
    term = system.loss(features)["ctc"]
    assert float(term.total) == pytest.approx(wanted) and int(term.count) == 3  # type: ignore[union-attr, arg-type]


def test_characters_are_those_of_the_transcripts() -> None:
    rows = counterpoint.Rows.from_list([{"transcript": "Ab, c!"}, {"transcript": None}, {"transcript": "c'a"}])
    system = _system()
    facts = system.prepare(rows)
    assert facts == {"characters": " 'abc"}
    system.use(facts)
    assert system.head.out_features == 6 and system.views().characters == " 'abc"
    with pytest.raises(ValueError, match="no transcript holds a letter or a digit"):
        system.prepare(counterpoint.Rows.from_list([{"transcript": "?"}]))


def test_pieces_end_where_it_is_quiet() -> None:
    sound = SOUND.copy()
    sound[14_000:14_400] = 0.0
    assert 14_000 <= quiet_place(sound, 8000) < 14_400
    assert 0 <= quiet_place(np.zeros(3, dtype=np.float32), 8000) <= 3


def test_long_recordings_are_spelt_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample is heard once, and no piece is longer than the window."""
    sound = np.concatenate([SOUND] * 8)  # 16 s
    for second in range(1, 16):
        sound[second * 8000 : second * 8000 + 200] = 0.0
    soundfile.write(tmp_path / "long.wav", sound, 8000)
    system, heard = _system(window=3.0), []
    monkeypatch.setattr(system, "_spell", lambda samples: heard.append(samples) or f"piece{len(heard)}")
    (found,) = system.transcribe([{"audio": tmp_path / "long.wav"}])
    assert found == {"text": " ".join(f"piece{n}" for n in range(1, len(heard) + 1)), "seconds": 16.0}
    assert max(map(len, heard)) <= 24_000 and 6 <= len(heard) <= 8
    joined = np.concatenate(heard)
    assert abs(len(joined) - len(sound)) <= 0.1 * 8000
    assert np.abs(joined - sound[: len(joined)]).max() < 1e-3


def test_short_silent_and_broken_recordings() -> None:
    system = _system()
    for samples in (np.zeros(8000), np.zeros(1), SOUND[:50]):
        (found,) = system.transcribe([{"audio": (samples, 8000)}])
        assert isinstance(found["text"], str) and found["seconds"] == len(samples) / 8000
    with pytest.raises(BadRow):
        list(system.transcribe([{"audio": b"nothing"}]))


def test_it_learns_to_spell_what_it_has_heard(run: Run, recordings: Path) -> None:
    scores = counterpoint.evaluate(run.path, str(recordings / "table.csv"), protocols=["transcription"])
    assert scores["scores"]["transcription/cer"] < 0.3
    assert scores["chance"]["transcription/cer"] == 1.0
    assert [identity for identity, _ in run.result()["skipped"]] == ["24"]


def test_predictions_are_one_line_a_recording(run: Run, recordings: Path, tmp_path: Path) -> None:
    found = counterpoint.predict(run.path, str(recordings / "table.csv"), out=tmp_path)
    assert (found.task, found.rows, found.predicted) == ("transcribe", 25, 24)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["id", "seconds", "text"]] * 24
    assert lines[0]["seconds"] == pytest.approx(soundfile.info(recordings / "00.wav").duration)
    assert len(found.skipped) == 1 and "not a recording" in found.skipped[0].reason
    with pytest.raises(ValueError, match="a transcript has no classes"):
        counterpoint.predict(run.path, str(recordings / "table.csv"), out=tmp_path, task="transcribe", classes="a,b")


def test_a_recording_gets_the_same_words_in_any_company(run: Run) -> None:
    system = load(run.path)
    rows = list(open_rows("syllables:validation")[:8])
    alone = [next(iter(system.transcribe([row])))["text"] for row in rows]  # type: ignore[attr-defined]
    assert [found["text"] for found in system.transcribe(rows[::-1])] == alone[::-1]  # type: ignore[attr-defined]


def test_an_encoder_of_a_run_is_taken_with_its_weights(run: Run, tmp_path: Path) -> None:
    first = counterpoint.train("w2v_bert", out=tmp_path / "units", recipe="tiny", overrides={"steps": 2}, quiet=True)
    system = Transcribe(f"run:{first.path}", trainable="none")
    trained = load(first.path).encoder
    assert isinstance(trained, SpeechEncoder)
    assert all(torch.equal(a, b) for a, b in zip(system.encoder.parameters(), trained.parameters(), strict=True))
    groups = Transcribe(f"run:{first.path}", encoder_rate=0.1).parameter_groups()
    assert {group.get("scale", 1.0) for group in groups} == {0.1, 1.0}


def test_wrong_settings_are_named() -> None:
    for wrong in ({"encoder_rate": 0.0}, {"longest": 0.0}, {"window": -1.0}):
        with pytest.raises(ValueError, match="encoder_rate, longest and window must be above 0"):
            _system(**wrong)


@pytest.mark.slow
def test_the_three_commands(recordings: Path, tmp_path: Path) -> None:
    """From unlabelled recordings to words in a file, as typed into a shell; silent about anything but its progress."""
    wavs = tmp_path / "wavs"
    wavs.mkdir()
    for file in sorted(recordings.glob("0*.wav")):
        (wavs / file.name).write_bytes(file.read_bytes())
    commands = (
        f"train w2v_bert {wavs} --recipe tiny --steps 3 --batch 4 --out {tmp_path / 'units'}",
        f"train transcribe {recordings / 'table.csv'} --encoder run:{tmp_path / 'units'} --recipe tiny --steps 3 "
        f"--out {tmp_path / 'words'}",
        f"predict {tmp_path / 'words'} {wavs} --out {tmp_path / 'said'}",
    )
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "counterpoint", *command.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    lines = (tmp_path / "said" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 10
