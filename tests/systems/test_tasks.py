"""Tasks: small systems over any encoder, pre-trained or fresh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow, open_rows
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.run import Run, load
from counterpoint.tasks.classify import Classify, LabelledView
from counterpoint.tasks.regress import Regress, TargetView
from counterpoint.training.train import train

TINY = "test_resnet?size=32"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("supremix", out=tmp_path_factory.mktemp("runs") / "supremix", recipe="tiny", quiet=True)


@pytest.fixture(scope="module")
def angles(pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The encoder of another run, fine-tuned."""
    return train(
        "regress",
        out=tmp_path_factory.mktemp("runs") / "angles",
        recipe="tiny",
        arguments={"encoder": f"run:{pretrained.path}"},
        overrides={"steps": 60},
        quiet=True,
    )


def test_the_encoder_of_a_run_is_taken_over(pretrained: Run) -> None:
    source = load(pretrained.path)
    task = Regress(f"run:{pretrained.path}")
    assert task.trunk.kind == "image"
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(task.encoder.state_dict()[name], value)
    frozen = Regress(f"run:{pretrained.path}", trainable="none")
    assert {name for name, p in frozen.named_parameters() if p.requires_grad} == {"head_weight", "head_bias"}


def test_a_regression_learns_and_answers_in_the_unit_of_the_target(angles: Run) -> None:
    rows = open_rows("rotated-digits:test")[:150]
    found = evaluate(angles.path, rows, protocols=["target_error"])
    score, chance = found["scores"]["target_error/mae"], found["chance"]["target_error/mae"]
    assert score < 0.9 * chance, (score, chance)
    system = load(angles.path)
    alone = system.regress([rows[0]])
    many = system.regress([rows[n] for n in range(4)])
    assert alone.shape == (1,) and abs(float(alone[0] - many[0])) < 1e-3
    targets = open_rows("rotated-digits:train-150").column("target")
    assert system.mean == pytest.approx(float(np.mean(targets))) and system.deviation > 1


def test_predict_writes_numbers(angles: Run, tmp_path: Path) -> None:
    rows = open_rows("rotated-digits:test")[:6]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, row in enumerate(rows):
        (folder / f"{number}.png").write_bytes(row["image"])
    (folder / "bad.png").write_bytes(b"no picture")
    command = [sys.executable, "-m", "counterpoint.cli", "predict", str(angles.path), str(folder), "--out"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"{number}.png" for number in range(6)]
    assert all(np.isfinite(line["target"]) for line in lines)
    assert "bad.png" in (tmp_path / "out" / "skipped.jsonl").read_text()


def test_a_classifier_learns_its_classes(tmp_path: Path) -> None:
    run = train("classify", out=tmp_path / "run", recipe="tiny", overrides={"steps": 80}, quiet=True)
    system = load(run.path)
    assert isinstance(system, Classify) and system.class_names == [str(n) for n in range(10)]
    rows = open_rows("digits:test")[:200]
    found = evaluate(run.path, rows, protocols=["classification"])
    assert found["scores"]["classification/accuracy"] > 0.5
    probabilities = system.classify([rows[n] for n in range(3)])
    assert probabilities.shape == (3, 10) and torch.allclose(probabilities.sum(1), torch.ones(3))


def test_what_cannot_be_learnt_is_refused() -> None:
    pictures = [{"id": str(n), "image": np.zeros((8, 8, 3), np.uint8), "label": 0, "target": 1.0} for n in range(3)]
    rows = open_rows(pictures)
    with pytest.raises(ValueError, match="at least two classes in the column 'label', found 1"):
        Classify(TINY).prepare(rows)
    with pytest.raises(ValueError, match="two different numbers in the column 'target'"):
        Regress(TINY).prepare(rows)
    rng = np.random.default_rng(0)
    with pytest.raises(BadRow, match="no class"):
        LabelledView(Classify(TINY).trunk.views("weak"))({"id": "a", "label": None}, rng)
    for wrong in (None, "ten", float("nan")):
        with pytest.raises(BadRow, match="must be a finite number"):
            TargetView(Regress(TINY).trunk.views("weak"))({"id": "a", "target": wrong}, rng)
    with pytest.raises(ValueError, match="distortion must be one of strong, weak, none, got 'wild'"):
        Classify(TINY, distortion="wild")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoder_rate must be above 0, got 0"):
        Regress(TINY, encoder_rate=0)
    with pytest.raises(ValueError, match="error must be one of l1, l2, huber, got 'cubic'"):
        Regress(TINY, error="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        Classify(TINY, label_smoothing=1)
    with pytest.raises(ValueError, match="kind must be one of image"):
        Classify(TINY, kind="smell")


@pytest.mark.parametrize(
    ("kind", "encoder", "data"),
    [
        ("video", "small3d?frames=4&size=16&stride=1", "motions:validation"),
        ("speech", "conformer:1x16x2?kernel=3&channels=4&bins=20&rate=8000", "syllables"),
        ("points", "voxel4?range=16,-4,4&cell=4&features=intensity", "lidar:train-10"),
    ],
)
@pytest.mark.parametrize("distortion", ["strong", "weak", "none"])
def test_rows_of_every_kind(kind: str, encoder: str, data: str, distortion: str, tmp_path: Path) -> None:
    """A task reads what its encoder reads, and gives a row the same answer in any batch."""
    rows = [{**row, "target": float(number)} for number, row in enumerate(open_rows(data)[:4])]
    task = Regress(encoder, kind=kind, distortion=distortion)  # type: ignore[arg-type]
    task.use(task.prepare(open_rows(rows)))
    view = task.views()
    batch = task.collate([view(row, np.random.default_rng(number)) for number, row in enumerate(rows)])
    torch.nn.init.normal_(task.head_weight, generator=torch.Generator().manual_seed(0))
    terms = task.loss(task.encode(batch))
    terms["l1"].total.backward()  # type: ignore[union-attr]
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in task.encoder.parameters())
    together, alone = task.regress(rows), torch.cat([task.regress([row]) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4) and len(together.unique()) > 1


def test_a_run_says_itself_of_which_kind_its_encoder_is(tmp_path: Path) -> None:
    overrides = {"steps": 1}
    run = train("w2v_bert", out=tmp_path / "run", recipe="tiny", overrides=overrides, quiet=True)
    assert Classify(f"run:{run.path}").trunk.kind == "speech"
    rows = [{**row, "target": float(number)} for number, row in enumerate(open_rows("lidar:train-10")[:4])]
    arguments = {"encoder": "voxel4?range=16,-4,4&cell=4", "kind": "points"}
    overrides = {"steps": 1, "batch": 2}
    stored = train(
        "regress", open_rows(rows), out=tmp_path / "task", recipe="tiny", arguments=arguments, overrides=overrides
    )
    task = load(stored.path)
    assert isinstance(task, Regress) and task.trunk.kind == "points"
