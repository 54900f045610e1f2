"""Resume means resume: the end of an interrupted run equals that of an unbroken one, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from training_toys import (
    TOYS,
    QueueToy,
    StagedToy,
    Toy,
    build,
    final_weights,
    make_rows,
    same_end,
    states_equal,
    stop_after,
)

from counterpoint.run import Run, list_checkpoints
from counterpoint.storage import read_tensors
from counterpoint.training.interrupt import Interrupted
from counterpoint.training.train import train

STEPS = 14
"""Batches of 12 from 64 rows: 5 an epoch, so the run ends in its third epoch."""


def settings(**changes: Any) -> dict[str, Any]:
    return {"batch": 12, "steps": STEPS, "log_every": 4, "warmup_steps": 3, **changes}


def run(toy: Toy, out: Path, *, resume: bool = False, **changes: Any) -> Run:
    return train(toy, make_rows(), out=out, overrides=settings(**changes), resume=resume, quiet=True)


def interrupted(kind: type[Toy], out: Path, stop: int, options: dict[str, Any], **changes: Any) -> None:
    with pytest.raises(Interrupted, match="resume"):
        run(stop_after(build(kind, **options), stop), out, resume=True, **changes)


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("stop", [1, 5, 7], ids=["first step", "epoch end", "mid-epoch"])
def test_resumed_equals_unbroken(tmp_path: Path, kind: type[Toy], stop: int) -> None:
    options = {} if kind.__name__ == "BatchNormToy" else {"dropout": 0.3}
    whole = run(build(kind, **options), tmp_path / "whole")
    interrupted(kind, tmp_path / "parts", stop, options)
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == f"{stop:08d}"
    parts = run(build(kind, **options), tmp_path / "parts", resume=True)
    assert same_end(whole.path, parts.path)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd", "lars"])
def test_twice_resumed_equals_unbroken(tmp_path: Path, optimiser: str, precision: str) -> None:
    changes: dict[str, Any] = {"optimiser": optimiser, "precision": precision, "accumulate": 2, "steps": 9}
    whole = run(build(QueueToy, dropout=0.3), tmp_path / "whole", **changes)
    for stop in (5, 6):  # encode is called twice a step: after steps 3 and 6
        interrupted(QueueToy, tmp_path / "parts", stop, {"dropout": 0.3}, **changes)
    parts = run(build(QueueToy, dropout=0.3), tmp_path / "parts", resume=True, **changes)
    assert same_end(whole.path, parts.path)


def test_workers_change_nothing(tmp_path: Path) -> None:
    whole = run(build(QueueToy, dropout=0.3), tmp_path / "whole", workers=0)
    interrupted(QueueToy, tmp_path / "parts", 7, {"dropout": 0.3}, workers=2)
    parts = run(build(QueueToy, dropout=0.3), tmp_path / "parts", resume=True, workers=2)
    assert same_end(whole.path, parts.path)


def test_stop_in_every_stage(tmp_path: Path) -> None:
    whole = run(build(StagedToy, dropout=0.3), tmp_path / "whole")
    for stop in (2, 9, 7):  # in the first stage, in the second, one step before the end of the last
        interrupted(StagedToy, tmp_path / "parts", stop, {"dropout": 0.3})
    parts = run(build(StagedToy, dropout=0.3), tmp_path / "parts", resume=True)
    assert same_end(whole.path, parts.path)


def test_micro_batches_resume(tmp_path: Path) -> None:
    whole = run(build(QueueToy, dropout=0.3), tmp_path / "whole", micro_batch=5, clip_gradient=0.5)
    interrupted(QueueToy, tmp_path / "parts", 25, {"dropout": 0.3}, micro_batch=5, clip_gradient=0.5)
    parts = run(build(QueueToy, dropout=0.3), tmp_path / "parts", resume=True, micro_batch=5, clip_gradient=0.5)
    assert same_end(whole.path, parts.path)


def test_metrics_have_no_gap_and_no_repetition(tmp_path: Path) -> None:
    whole = run(build(Toy), tmp_path / "whole", log_every=1)
    interrupted(Toy, tmp_path / "parts", 7, {}, log_every=1)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')  # what a kill after the checkpoint leaves
    parts = run(build(Toy), tmp_path / "parts", resume=True, log_every=1)
    losses = [[(record["step"], record["loss"]) for record in found.metrics()] for found in (whole, parts)]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, STEPS + 1))


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(build(Toy), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    train(build(Toy), make_rows(), out=tmp_path / "run", overrides=settings(), resume=True)
    assert "finished after 14 steps" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_resume_without_data_and_settings_takes_those_of_the_run(tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in make_rows()))
    whole = train(build(Toy), table, out=tmp_path / "whole", overrides=settings(), quiet=True)
    with pytest.raises(Interrupted):
        train(stop_after(build(Toy), 4), table, out=tmp_path / "parts", overrides=settings(), quiet=True)
    parts = train(build(Toy), out=tmp_path / "parts", resume=True, quiet=True)
    assert same_end(whole.path, parts.path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.5}, "learning_rate=0.001"),
        ({"batch": 16}, "batch=12"),
        ({"epochs": 3, "steps": None}, "epochs=None"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    interrupted(Toy, tmp_path / "run", 3, {})
    with pytest.raises(ValueError, match=words):
        train(build(Toy), make_rows(), out=tmp_path / "run", overrides=changes, resume=True, quiet=True)


def test_other_data_are_refused(tmp_path: Path) -> None:
    interrupted(Toy, tmp_path / "run", 3, {})
    with pytest.raises(ValueError, match="other data"):
        train(build(Toy), make_rows(70), out=tmp_path / "run", resume=True, quiet=True)


def test_another_system_is_refused(tmp_path: Path) -> None:
    interrupted(Toy, tmp_path / "run", 3, {})
    with pytest.raises(ValueError, match="a run of Toy, not of QueueToy"):
        run(build(QueueToy), tmp_path / "run", resume=True)


def test_a_run_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    run(build(Toy), tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run.*resume"):
        run(build(Toy), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="thesis.txt"):
        run(build(Toy), tmp_path / "other")


STORM = """
import os, random, signal, sys, time
import torch
import torch.utils.tensorboard
from pathlib import Path
from training_toys import QueueToy, build, make_rows
from counterpoint.training.train import train
torch.set_num_threads(1)
folder, kills, generator = Path(sys.argv[1]), int(sys.argv[2]), random.Random(5)
steps = 15 * kills

def go(out):
    overrides = dict(batch=12, steps=steps, log_every=4, save_every=3)
    train(build(QueueToy, dropout=0.3), make_rows(), out=out, overrides=overrides, resume=True, quiet=True)

def child(out):
    number = os.fork()
    if number == 0:
        go(out)
        os._exit(0)
    return number

assert os.waitpid(child(folder / "whole"), 0)[1] == 0
for kill in range(kills):
    number = child(folder / "parts")
    deadline = time.monotonic() + generator.random() * 0.6
    while time.monotonic() < deadline and os.waitpid(number, os.WNOHANG) == (0, 0):
        pass
    try:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    print("killed", kill, sorted(p.name for p in (folder / "parts").glob("checkpoints/*")), flush=True)
assert os.waitpid(child(folder / "parts"), 0)[1] == 0
"""


def storm(folder: Path, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STORM, str(folder), str(kills)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert same_end(folder / "whole", folder / "parts")
    assert not list((folder / "parts").rglob(".counterpoint-*"))


def test_killed_runs_resume_exactly(tmp_path: Path) -> None:
    storm(tmp_path, 4)


@pytest.mark.slow
def test_fifty_killed_runs_resume_exactly(tmp_path: Path) -> None:
    storm(tmp_path, 50)


CONTROLLED = """
import sys
from training_toys import QueueToy, build, make_rows
from counterpoint.training.train import train
toy = build(QueueToy, dropout=0.3)
encode, calls = toy.encode, [0]
def counted(batch):
    calls[0] += 1
    if calls[0] == 6:
        print("in step", calls[0], flush=True)
        sys.stdin.readline()  # until the test has sent the signal
    return encode(batch)
toy.encode = counted
train(toy, make_rows(), out=sys.argv[1], overrides=dict(batch=12, steps=14, workers=int(sys.argv[2])), quiet=True)
"""


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_a_signal_to_the_process_saves_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROLLED, str(tmp_path / "parts"), str(workers)],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("in step"), process.communicate()[1]
    os.killpg(process.pid, number)  # as a terminal does: to the loader's workers, too
    _, errors = process.communicate("go\n")
    assert process.returncode != 0
    assert "stopped after step 6" in errors and "--resume" in errors, errors
    whole = train(
        build(QueueToy, dropout=0.3),
        make_rows(),
        out=tmp_path / "whole",
        overrides={"batch": 12, "steps": 14},
        quiet=True,
    )
    parts = train(build(QueueToy, dropout=0.3), make_rows(), out=tmp_path / "parts", resume=True, quiet=True)
    assert same_end(whole.path, parts.path)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    whole = run(build(QueueToy), tmp_path / "whole", save_every=3)
    interrupted(QueueToy, tmp_path / "parts", 7, {}, save_every=3)
    older, newest = list_checkpoints(tmp_path / "parts" / "checkpoints")
    victim = newest / "model.safetensors"
    content = bytearray(victim.read_bytes())
    content[-3] ^= 4
    victim.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=f"{newest.name}/model.safetensors.*checkpoint before"):
        parts = run(build(QueueToy), tmp_path / "parts", resume=True, save_every=3)
    assert older.name == "00000006"
    assert same_end(whole.path, parts.path)


def test_without_one_good_checkpoint_nothing_is_guessed(tmp_path: Path) -> None:
    interrupted(Toy, tmp_path / "run", 7, {}, save_every=3)
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        (path / "state.json").write_text("{}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="no checkpoint.*usable.*state.json"):
            run(build(Toy), tmp_path / "run", resume=True, save_every=3)


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    found = run(build(Toy), tmp_path / "run", save_every=3).checkpoints
    assert [path.name for path in found] == ["00000012", "00000014"]
    assert states_equal(final_weights(tmp_path / "run"), read_tensors(found[-1] / "model.safetensors"))
