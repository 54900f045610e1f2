"""The doctor reads what the monitor saw, and says what usually helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_health import constant_encoder, run, wrong_pairs
from training_toys import Toy, build

from counterpoint.run import write_config
from counterpoint.training.doctor import diagnose, doctor


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    """A run directory with these figures."""
    path.mkdir()
    write_config(path, {"kind": "train", "system": {"name": "toy"}, "training": {}})
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def line(step: int, **figures: Any) -> dict[str, Any]:
    return {"step": step, "stage": "train", "loss": 1.0, "learning_rate": 1e-3, "gradient_norm": 1.0, **figures}


def test_a_healthy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor(run(build(Toy), tmp_path / "run"))
    assert [finding.kind for finding in findings] == ["healthy"]
    assert "a guesser has 3.466" in capsys.readouterr().out


def test_a_collapsed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = doctor(run(constant_encoder(build(Toy)), tmp_path / "run"))
    assert {finding.kind for finding in findings} == {"collapse", "duplicates", "guess"}
    assert all(finding.severity == "problem" and finding.remedy for finding in findings)
    assert "effective rank 1.00" in capsys.readouterr().out


def test_pairs_that_do_not_belong_together(tmp_path: Path) -> None:
    (finding,) = diagnose(run(wrong_pairs(build(Toy)), tmp_path / "run"))
    assert finding.kind == "guess" and "views of a row belong together" in finding.remedy


def test_what_went_away_is_a_note(tmp_path: Path) -> None:
    records = [line(10 * i, guess=5.0, guessed_loss=5.0 if i < 5 else 2.0, effective_rank=9.0) for i in range(1, 12)]
    records[4]["warnings"] = ["guess"]
    findings = diagnose(written(tmp_path / "run", records))
    assert [(finding.kind, finding.severity) for finding in findings[:2]] == [("healthy", "ok"), ("guess", "note")]
    assert "no longer at the end" in findings[1].message


def test_a_diverging_loss(tmp_path: Path) -> None:
    losses = [3.0, 2.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.0]
    findings = diagnose(written(tmp_path / "run", [line(10 * i, loss=loss) for i, loss in enumerate(losses, 1)]))
    assert findings[0].kind == "diverging" and "lowest 1" in findings[0].message


def test_a_run_too_short_to_beat_guessing(tmp_path: Path) -> None:
    records = [line(2, guess=2.3, guessed_loss=4.8), line(4, guess=2.3, guessed_loss=3.5)]
    kinds = [(finding.kind, finding.severity) for finding in diagnose(written(tmp_path / "run", records))]
    assert ("above_guess", "note") in kinds


def test_an_unfinished_run_and_one_without_figures(tmp_path: Path) -> None:
    assert diagnose(written(tmp_path / "a", [line(10)]))[-1].kind == "unfinished"
    assert [finding.kind for finding in diagnose(written(tmp_path / "b", []))] == ["no_figures"]


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a run directory"):
        diagnose(tmp_path)


@pytest.mark.parametrize(("share", "kinds"), [(0.97, ["low_temperature"]), (0.11, ["high_temperature"]), (0.5, [])])
def test_whom_the_contrast_pushes_is_a_note(tmp_path: Path, share: float, kinds: list[str]) -> None:
    lines = [line(step, hardest_share=share, guess=5.0, guessed_loss=1.0) for step in range(0, 60, 10)]
    found = diagnose(written(tmp_path / "run", lines))
    notes = [finding.kind for finding in found if finding.kind.endswith("temperature")]
    assert notes == kinds
    assert all(finding.severity != "problem" for finding in found if finding.kind in kinds)
