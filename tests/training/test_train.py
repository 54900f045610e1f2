"""`train` as a whole: the run directory, determinism, limits."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from training_toys import (
    QueueToy,
    StagedToy,
    Toy,
    build,
    final_weights,
    make_rows,
    same_end,
    states_equal,
)

from counterpoint.data import BadRow, DataError
from counterpoint.run import Run
from counterpoint.system import Stage
from counterpoint.training import metrics_log
from counterpoint.training.guard import NonFiniteError
from counterpoint.training.settings import TrainingSettings
from counterpoint.training.train import train


def run(toy: Toy, out: Path, rows: Any = None, **overrides: Any) -> Run:
    values = {"batch": 16, "steps": 8, **overrides}
    return train(toy, make_rows() if rows is None else rows, out=out, overrides=values, quiet=True)


def test_the_run_directory(tmp_path: Path) -> None:
    found = run(build(QueueToy), tmp_path / "run", log_every=2)
    names = {path.name for path in found.path.iterdir()}
    assert names >= {"config.yaml", "model.safetensors", "checkpoints", "metrics.jsonl", "result.json", "facts.json"}
    config = yaml.safe_load((found.path / "config.yaml").read_text())
    assert config["format"] == 1 and config["kind"] == "train"
    assert config["system"] == {"name": "QueueToy", "class": "QueueToy", "arguments": None}
    assert config["training"]["batch"] == 16 and config["rows"]["count"] == 64
    assert config["versions"]["torch"] == importlib.metadata.version("torch")
    assert [record["step"] for record in found.metrics()] == [2, 4, 6, 8]
    wanted = {"loss", "guess", "learning_rate", "gradient_norm", "examples_per_second", "effective_rank"}
    assert wanted | {"alignment", "uniformity", "duplicate_rate"} <= found.metrics()[0].keys()
    assert found.result()["rows_read"] == 128


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = run(build(Toy), tmp_path / "run", log_every=2)
    events = EventAccumulator(str(found.path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6, 8]


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    first = run(build(QueueToy, dropout=0.3), tmp_path / "a")
    torch.rand(17)  # whatever the global generator does in between
    second = run(build(QueueToy, dropout=0.3), tmp_path / "b", workers=2)
    assert same_end(first.path, second.path)
    other = run(build(QueueToy, dropout=0.3), tmp_path / "c", seed=1)
    assert not states_equal(final_weights(first.path), final_weights(other.path))


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """Neither log lines nor checkpoints leave a trace in the weights."""
    often = run(build(QueueToy, dropout=0.3), tmp_path / "a", log_every=1, save_every=1)
    seldom = run(build(QueueToy, dropout=0.3), tmp_path / "b", log_every=1000)
    assert same_end(often.path, seldom.path)


HASHED = """
import sys
from training_toys import QueueToy, build, make_rows
from counterpoint.training.train import train
overrides = dict(batch=16, steps=8)
train(build(QueueToy, dropout=0.3), make_rows(), out=sys.argv[1], overrides=overrides, quiet=True)
"""


def test_the_hash_seed_changes_nothing(tmp_path: Path) -> None:
    started = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", HASHED, str(tmp_path / seed)]
        started.append(subprocess.Popen(command, cwd=Path(__file__).parent, env=environment))
    assert [process.wait() for process in started] == [0, 0]
    assert same_end(tmp_path / "1", tmp_path / "2")


def test_epochs_count_passes(tmp_path: Path) -> None:
    assert run(build(Toy), tmp_path / "a", steps=None, epochs=2).result()["steps"] == 8
    assert run(build(Toy), tmp_path / "b", steps=None, epochs=0.5).result()["steps"] == 2
    assert run(build(Toy), tmp_path / "c", steps=3, epochs=2).result()["steps"] == 3
    assert run(build(Toy), tmp_path / "d", steps=None, epochs=2, accumulate=2).result()["steps"] == 4


def test_a_time_limit_ends_the_run_and_drives_the_schedule(tmp_path: Path) -> None:
    found = run(build(Toy), tmp_path / "run", steps=None, seconds=0.5, log_every=1)
    records = found.metrics()
    assert 0.5 <= found.result()["seconds"] < 5
    assert records[-1]["progress"] == 1.0
    assert records[-1]["learning_rate"] < 0.3 * records[0]["learning_rate"]


def test_the_schedule_reaches_every_step(tmp_path: Path) -> None:
    changes = {"schedule": "linear", "warmup_steps": 2, "log_every": 1, "learning_rate": 0.1}
    rates = [record["learning_rate"] for record in run(build(Toy), tmp_path / "run", **changes).metrics()]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.1 * 5 / 6, 0.1 * 4 / 6, 0.1 * 3 / 6, 0.1 * 2 / 6, 0.1 / 6])


def test_stages_train_what_they_name(tmp_path: Path) -> None:
    toy = build(StagedToy)
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    seen: dict[str, dict[str, Tensor]] = {}
    encode = toy.encode

    def watching(batch: dict[str, Any]) -> dict[str, Tensor]:
        seen[toy.clock.stage] = {name: value.detach().clone() for name, value in toy.state_dict().items()}
        return encode(batch)

    toy.encode = watching  # type: ignore[method-assign]
    found = run(toy, tmp_path / "run", log_every=1)
    assert [record["stage"] for record in found.metrics()] == ["head"] * 3 + ["all"] * 8 + ["late"] * 4
    assert torch.equal(seen["head"]["backbone.0.weight"], before["backbone.0.weight"])
    assert not torch.equal(seen["all"]["head.weight"], before["head.weight"])
    final = toy.state_dict()
    assert torch.equal(seen["late"]["head.weight"], final["head.weight"])
    assert not torch.equal(seen["late"]["backbone.0.weight"], final["backbone.0.weight"])
    assert all(parameter.requires_grad for parameter in toy.parameters())


def test_a_stage_may_end_early_and_read_some_sources(tmp_path: Path) -> None:
    class Early(Toy):
        def stages(self) -> list[Stage]:
            return [Stage("first", sources=("left",), until="enough"), Stage("second", steps=2)]

        def enough(self) -> bool:
            return self.clock.step >= 2

        def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
            sides.setdefault(self.clock.stage, set()).update(batch["n"].tolist())
            return super().encode(batch)

    sides: dict[str, set[int]] = {}
    rows = [{**row, "source": "left" if i % 2 else "right", "n": i % 2} for i, row in enumerate(make_rows())]
    found = run(build(Early), tmp_path / "run", rows, log_every=1)
    assert [record["stage"] for record in found.metrics()] == ["first"] * 2 + ["second"] * 2
    assert sides == {"first": {1}, "second": {0, 1}}


def test_bad_rows_are_counted_and_listed(tmp_path: Path) -> None:
    class Picky(Toy):
        def views(self) -> Any:
            view = super().views()

            def picky(row: Any, rng: Any) -> Any:
                if row["id"] in ("r0003", "r0050"):
                    raise BadRow("too small")
                return view(row, rng)

            return picky

    found = run(build(Picky), tmp_path / "run", epochs=2, steps=None)
    assert sorted(found.result()["skipped"]) == [["r0003", "too small"], ["r0050", "too small"]]
    with pytest.raises(DataError, match="max_skip_rate=0.01"):
        run(build(Picky), tmp_path / "strict", epochs=2, steps=None, max_skip_rate=0.01)


def test_facts_are_stored_and_given_back(tmp_path: Path) -> None:
    class Prepared(Toy):
        def prepare(self, rows: Any) -> dict[str, Any]:
            values = torch.tensor([row["x"] for row in rows])
            return {"mean": values.mean(dim=0), "rows": len(rows), "names": ["a", "b"]}

        def use(self, facts: Any) -> None:
            self.facts = dict(facts)

    trained = build(Prepared)
    found = run(trained, tmp_path / "run")
    loaded = found.system(build(Prepared, seed=1))
    assert loaded.facts["rows"] == 64 and loaded.facts["names"] == ["a", "b"]
    assert torch.equal(loaded.facts["mean"], trained.facts["mean"])


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    changes = {"optimiser": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "steps": 1}
    toys = [build(Toy), build(Toy)]
    before = torch.cat([value.detach().reshape(-1).clone() for value in toys[0].parameters()])
    moved = []
    for toy, limit in zip(toys, (None, 0.25), strict=True):
        run(toy, tmp_path / str(limit), clip_gradient=limit, **changes)
        moved.append(torch.cat([value.detach().reshape(-1) for value in toy.parameters()]) - before)
    assert float(moved[0].norm()) > 0.3
    assert float(moved[1].norm()) == pytest.approx(0.25, rel=1e-3)
    assert torch.allclose(moved[0] / moved[0].norm(), moved[1] / moved[1].norm(), atol=1e-5)


def test_a_large_batch_becomes_all_rows_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(build(Toy), make_rows(10), out=tmp_path / "run", overrides={"batch": 256, "steps": 2})
    assert "batch 256 is more than the 10 rows there are: it becomes 10" in capsys.readouterr().err
    assert Run(tmp_path / "run").config["training"]["batch"] == 10


@pytest.mark.slow
def test_compiled_runs_train(tmp_path: Path) -> None:
    found = run(build(Toy), tmp_path / "run", compile=True)
    plain = run(build(Toy), tmp_path / "plain")
    weights = final_weights(found.path)
    assert all(torch.allclose(value, weights[name], atol=1e-4) for name, value in final_weights(plain.path).items())


FULL = """
import resource, sys, warnings
from training_toys import QueueToy, build, make_rows
from counterpoint.storage import StorageError
from counterpoint.training.train import train
toy = build(QueueToy, size=20000)
encode, calls = toy.encode, [0]
def limited(batch):
    calls[0] += 1
    if calls[0] == 5:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    return encode(batch)
toy.encode = limited
overrides = dict(batch=16, steps=12, save_every=4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        train(toy, make_rows(), out=sys.argv[1], overrides=overrides, quiet=True)
    except StorageError as error:
        print("ended:", error)
for warning in caught:
    print("warned:", warning.message)
"""


def test_a_full_disk_costs_no_finished_work(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warned: no checkpoint at step 8" in done.stdout  # and it went on to the end
    assert "ended: " in done.stdout and "larger than the system allows" in done.stdout
    assert [path.name for path in Run(tmp_path / "run").checkpoints] == ["00000004"]
    overrides = {"batch": 16, "steps": 12, "save_every": 4}
    rescued = train(
        build(QueueToy, size=20000), make_rows(), out=tmp_path / "run", overrides=overrides, resume=True, quiet=True
    )
    whole = train(build(QueueToy, size=20000), make_rows(), out=tmp_path / "whole", overrides=overrides, quiet=True)
    assert same_end(rescued.path, whole.path)


def test_settings_can_be_given_whole(tmp_path: Path) -> None:
    settings = TrainingSettings(batch=16, steps=3, betas=(0.8, 0.9))
    found = train(build(Toy), make_rows(), out=tmp_path / "run", settings=settings, quiet=True)
    assert found.config["training"]["betas"] == [0.8, 0.9]
    assert found.result()["steps"] == 3


def test_figures_are_kept_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: None)
    found = run(build(Toy), tmp_path / "run", log_every=2)
    assert not (found.path / "tensorboard").exists()
    assert [record["step"] for record in found.metrics()] == [2, 4, 6, 8]


def test_a_failed_run_keeps_its_figures(tmp_path: Path) -> None:
    toy = build(Toy)
    loss = toy.loss
    toy.loss = lambda features: {  # type: ignore[method-assign]
        name: term * (torch.nan if toy.clock.step == 5 else 1.0)  # type: ignore[operator]
        for name, term in loss(features).items()
    }
    with pytest.raises(NonFiniteError):
        run(toy, tmp_path / "run", log_every=2)
    assert [record["step"] for record in Run(tmp_path / "run").metrics()] == [2, 4]
