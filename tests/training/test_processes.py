"""More processes never change the result: whole runs on 1, 2 and 3 processes end with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_toys import (
    BatchNormToy,
    QueueToy,
    StagedToy,
    Toy,
    UncoupledToy,
    build,
    final_weights,
    make_rows,
    stop_after,
)

from counterpoint.distributed import process_index
from counterpoint.training.interrupt import Interrupted
from counterpoint.training.train import train
from processes import run_on_processes

STEPS = 60


def whole_run(
    kind: type[Toy], out: str, overrides: dict[str, Any], resume: bool = False, stop: int | None = None
) -> dict[str, Tensor]:
    """A run in float64 to its end, or until process 0 is asked to stop while it computes step number `stop`."""
    torch.set_default_dtype(torch.float64)
    try:
        toy = build(kind, dtype="float64")
        if stop is not None and process_index() == 0:
            stop_after(toy, stop)
        train(toy, make_rows(), out=out, overrides=overrides, quiet=True, resume=resume)
    except Interrupted:
        assert stop is not None
        return {}
    finally:
        torch.set_default_dtype(torch.float32)
    return {name: value.detach().clone() for name, value in toy.state_dict().items()}


def settings(**changes: Any) -> dict[str, Any]:
    values = {"batch": 13, "steps": STEPS, "optimiser": "sgd", "learning_rate": 0.05, "schedule": "constant"}
    return {**values, "weight_decay": 1e-4, "log_every": 20, **changes}


def farthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


@pytest.mark.parametrize("kind", [Toy, QueueToy, BatchNormToy, UncoupledToy, StagedToy])
@pytest.mark.parametrize("processes", [2, 3])
def test_runs_on_more_processes_end_alike(tmp_path: Path, kind: type[Toy], processes: int) -> None:
    one = whole_run(kind, str(tmp_path / "one"), settings())
    answers = run_on_processes(whole_run, processes, kind, str(tmp_path / "many"), settings())
    for found in answers:
        assert farthest(one, found) <= 1e-6
        assert farthest(answers[0], found) == 0.0  # the processes agree with each other to the bit
    moved = farthest(one, {name: value for name, value in build(kind, dtype="float64").state_dict().items()})
    assert moved > 1e-2  # the runs did train
    assert farthest(one, final_weights(tmp_path / "many")) <= 1e-6


@pytest.mark.parametrize("changes", [{"micro_batch": 3}, {"accumulate": 2, "steps": 20}], ids=["pieces", "accumulated"])
@pytest.mark.parametrize("kind", [QueueToy, UncoupledToy])
def test_pieces_and_accumulation_on_two_processes(tmp_path: Path, kind: type[Toy], changes: dict[str, Any]) -> None:
    one = whole_run(kind, str(tmp_path / "one"), settings(**{**changes, "micro_batch": None}))
    for found in run_on_processes(whole_run, 2, kind, str(tmp_path / "two"), settings(**changes)):
        assert farthest(one, found) <= 1e-6


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """The batches are global, so the same rows are seen: without dropout the result is that of one process."""
    one = whole_run(QueueToy, str(tmp_path / "one"), settings())
    run_on_processes(interrupted_run, 2, str(tmp_path / "parts"), 31)
    assert farthest(one, whole_run(QueueToy, str(tmp_path / "parts"), settings(), resume=True)) <= 1e-6


def interrupted_run(out: str, stop: int) -> None:
    """Only process 0 hears the signal; all of them stop after the same step."""
    from training_toys import stop_after

    from counterpoint.distributed import process_index
    from counterpoint.training.interrupt import Interrupted

    torch.set_default_dtype(torch.float64)
    toy = build(QueueToy, dtype="float64")
    if process_index() == 0:
        stop_after(toy, stop)
    try:
        train(toy, make_rows(), out=out, overrides=settings(), quiet=True)
    except Interrupted:
        return
    finally:
        torch.set_default_dtype(torch.float32)
    raise AssertionError("the run was not interrupted")


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch=2 rows cannot be shared by 3 processes"):
        run_on_processes(whole_run, 3, UncoupledToy, str(tmp_path / "run"), settings(batch=2))
