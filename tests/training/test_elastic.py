"""A run that goes on with another number of processes is the same run, or is refused before anything is written."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_toys import (
    BadRowViews,
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
from counterpoint.run import build_system, list_checkpoints
from counterpoint.system import Stage
from counterpoint.training.interrupt import Interrupted
from counterpoint.training.recipe import choose_recipe
from counterpoint.training.train import train
from processes import run_on_processes

CHANGES = [(2, 1), (2, 3), (1, 2)]
STOP = 7
VALUES = {"batch": 13, "steps": 14, "optimiser": "sgd", "learning_rate": 0.05, "schedule": "constant", "log_every": 5}


class ConvToy(Toy):
    """A convolution whose weights lie in memory as the image encoders' do: channels last."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        convolution = nn.Conv2d(2, 6, 2)
        self.backbone = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), convolution, nn.Tanh(), nn.Flatten())
        self.to(dtype=getattr(torch, self.dtype), memory_format=torch.channels_last)  # type: ignore[call-overload]


class BadRowsToy(QueueToy):
    """Every ninth row cannot be used."""

    def views(self) -> Callable[..., dict[str, Any]]:
        return BadRowViews(super().views())


class TextToy(QueueToy):
    """Reads its numbers from the text of a row."""

    needs = ("text",)

    def views(self) -> Callable[..., dict[str, Any]]:
        return TextViews(super().views())


class TextViews:
    def __init__(self, view: Callable[..., dict[str, Any]]) -> None:
        self.view = view

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return self.view(json.loads(row["text"]), rng)


class LateDropoutToy(Toy):
    """Draws random numbers in its second stage only."""

    def stages(self) -> list[Stage]:
        return [Stage("plain", steps=10), Stage("dropping", steps=4, encode="encode_dropped")]

    def encode_dropped(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {name: torch.dropout(value, 0.3, True) for name, value in super().encode(batch).items()}


class LossDropoutToy(Toy):
    """Draws random numbers where the rows of all processes meet: the same on every process."""

    def loss(self, features: dict[str, Tensor]) -> dict[str, Any]:
        return super().loss({name: torch.dropout(value, 0.3, True) for name, value in features.items()})


def part(
    kind: type[Toy], out: str, *, stop: int = 0, data: Any = None, options: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """This process's part of a run in float64, up to step `stop` or to the end: weights, rows read, skipped ids."""
    torch.set_default_dtype(torch.float64)
    try:
        toy = build(kind, dtype="float64", **(options or {}))
        if stop and process_index() == 0:  # only one hears the signal; all of them stop after the same step
            stop_after(toy, stop)
        overrides = {**VALUES, **changes}
        run = train(toy, data or make_rows(), out=out, overrides=overrides, resume=True, quiet=True)
    except Interrupted:
        return {}
    finally:
        torch.set_default_dtype(torch.float32)
    result = run.result()
    return {
        "weights": {name: value.detach().clone() for name, value in toy.state_dict().items()},
        "rows": result["rows_read"],
        "skipped": sorted(name for name, _ in result["skipped"]),
        "steps": result["steps"],
    }


def on(processes: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
    if processes == 1:
        return [function(*args, **kwargs)]
    return run_on_processes(function, processes, *args, **kwargs)


def farthest(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [Toy, QueueToy, BatchNormToy, ConvToy, UncoupledToy, StagedToy])
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_it_ends_as_an_unbroken_run_does(tmp_path: Path, kind: type[Toy], before: int, after: int) -> None:
    whole = part(kind, str(tmp_path / "whole"))
    assert on(before, part, kind, str(tmp_path / "parts"), stop=STOP) == [{}] * before
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == f"{STOP:08d}"
    ends = on(after, part, kind, str(tmp_path / "parts"))
    first = build(kind, dtype="float64").state_dict()
    assert farthest(first, whole["weights"]) > 1e-2  # it did train
    for end in ends:
        assert farthest(end["weights"], whole["weights"]) <= 1e-10
        assert {name: end[name] for name in ("rows", "skipped", "steps")} == {
            name: whole[name] for name in ("rows", "skipped", "steps")
        }
    assert farthest(final_weights(tmp_path / "parts"), whole["weights"]) <= 1e-10


def test_several_changes_in_one_run(tmp_path: Path) -> None:
    """1, 3, 2 and 1 processes in turn, with the batch cut in pieces, Adam's state and clipping."""
    changes = {"optimiser": "adamw", "learning_rate": 1e-3, "micro_batch": 4, "clip_gradient": 0.5}
    out = str(tmp_path / "parts")
    whole = part(QueueToy, str(tmp_path / "whole"), **changes)
    assert part(QueueToy, out, stop=13, **changes) == {}  # four pieces, each encoded twice: in step 2
    for processes, stop in ((3, 13), (2, 13)):  # two pieces a process: after three steps and four
        assert on(processes, part, QueueToy, out, stop=stop, **changes) == [{}] * processes
    end = part(QueueToy, out, **changes)
    assert farthest(end["weights"], whole["weights"]) <= 1e-10


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_rows_that_cannot_be_used_are_counted_once(tmp_path: Path, before: int, after: int) -> None:
    whole = part(BadRowsToy, str(tmp_path / "whole"), max_skip_rate=0.5)
    on(before, part, BadRowsToy, str(tmp_path / "parts"), stop=STOP, max_skip_rate=0.5)
    ends = on(after, part, BadRowsToy, str(tmp_path / "parts"), max_skip_rate=0.5)
    assert len(whole["skipped"]) == 8
    assert {ends[0]["rows"], 13 * 14} == {whole["rows"]}
    assert ends[0]["skipped"] == whole["skipped"]
    assert farthest(ends[0]["weights"], whole["weights"]) <= 1e-10


def write_shards(folder: Path) -> Path:
    """Three tar shards of unequal length with the numbers of `make_rows` as text."""
    folder.mkdir()
    rows = make_rows()
    for number, (start, stop) in enumerate([(0, 30), (30, 41), (41, 64)]):
        with tarfile.open(folder / f"part-{number}.tar", "w") as archive:
            for row in rows[start:stop]:
                content = json.dumps(row).encode()
                entry = tarfile.TarInfo(f"{row['id']}.txt")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return folder


@pytest.mark.parametrize(("before", "after", "workers"), [(2, 1, 2), (2, 3, 0), (1, 2, 0)])
def test_tar_shards_go_on_where_they_were(tmp_path: Path, before: int, after: int, workers: int) -> None:
    data = str(write_shards(tmp_path / "shards"))
    whole = part(TextToy, str(tmp_path / "whole"), data=data)
    on(before, part, TextToy, str(tmp_path / "parts"), stop=STOP, data=data)
    end = on(after, part, TextToy, str(tmp_path / "parts"), data=data, workers=workers)[0]
    assert (end["rows"], end["steps"]) == (whole["rows"], whole["steps"])
    assert farthest(end["weights"], whole["weights"]) <= 1e-10


@pytest.mark.parametrize("kind", [Toy, UncoupledToy])
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_dropout_is_refused_and_nothing_is_written(tmp_path: Path, kind: type[Toy], before: int, after: int) -> None:
    out, options = tmp_path / "run", {"dropout": 0.3}
    on(before, part, kind, str(out), stop=STOP, options=options)
    written = files(out)
    words = f"began with {before} process.*draws random numbers.*with {after} process.*Resume it with {before} "
    with pytest.raises(ValueError, match=words):
        on(after, part, kind, str(out), options=options)
    assert files(out) == written
    ends = on(before, part, kind, str(out), options=options)  # the way out that the message names
    whole = on(before, part, kind, str(tmp_path / "whole"), options=options)
    assert farthest(ends[0]["weights"], whole[0]["weights"]) == 0.0


def test_random_numbers_of_the_loss_are_those_of_every_number_of_processes(tmp_path: Path) -> None:
    whole = part(LossDropoutToy, str(tmp_path / "whole"))
    on(2, part, LossDropoutToy, str(tmp_path / "parts"), stop=STOP)
    end = on(3, part, LossDropoutToy, str(tmp_path / "parts"))[0]
    assert farthest(end["weights"], whole["weights"]) <= 1e-10


def test_dropout_of_a_later_stage_is_refused_there_and_the_run_can_go_back(tmp_path: Path) -> None:
    out = str(tmp_path / "parts")
    whole = on(2, part, LateDropoutToy, str(tmp_path / "whole"))
    on(2, part, LateDropoutToy, out, stop=STOP)
    with pytest.raises(ValueError, match=r"began with 2 processes.*with 1 process it would be another run"):
        part(LateDropoutToy, out)
    assert list_checkpoints(tmp_path / "parts" / "checkpoints")[-1].name == "00000010"  # the end of the first stage
    ends = on(2, part, LateDropoutToy, out)
    assert farthest(ends[0]["weights"], whole[0]["weights"]) <= 1e-10


def test_a_batch_norm_that_one_process_would_have_to_cut_is_refused(tmp_path: Path) -> None:
    on(2, part, BatchNormToy, str(tmp_path / "run"), stop=STOP, micro_batch=7)
    with pytest.raises(ValueError, match=r"micro_batch=7 cannot be used.*normalises over the batch"):
        part(BatchNormToy, str(tmp_path / "run"), micro_batch=7)


def test_more_processes_than_rows_in_a_batch_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    on(2, part, UncoupledToy, str(out), stop=STOP, batch=2)
    written = files(out)
    with pytest.raises(ValueError, match="began with 2 processes and has batches of 2 rows, which 3 processes cannot"):
        on(3, part, UncoupledToy, str(out), batch=2)
    assert files(out) == written


def doubled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: doubled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [doubled(item) for item in value]
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def system_part(name: str, out: str, *, stop: int = 0) -> dict[str, Tensor]:
    """The same with a registered system and its tiny recipe, in float64 so that rounding cannot hide a difference."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        system: Any = build_system(name, choose_recipe(name, "tiny")[0].system).double()
        encode = system.encode
        system.encode = lambda batch: encode(doubled(batch))
        if stop and process_index() == 0:
            stop_after(system, stop)
        overrides = {"optimiser": "sgd", "learning_rate": 1e-2, "steps": 6}  # Adam makes steps of rounding near zero
        train(system, recipe="tiny", out=out, overrides=overrides, resume=True, quiet=True)
    except Interrupted:
        return {}
    finally:
        torch.set_default_dtype(torch.float32)
    return {key: value.detach().clone() for key, value in system.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swav", "contrastive_loss_behaviour", "supremix"])
def test_registered_systems(tmp_path: Path, name: str) -> None:
    """With queues; with a queue and a momentum encoder; with neither."""
    whole = system_part(name, str(tmp_path / "whole"))
    for before, after in CHANGES:
        out = tmp_path / f"{before}-{after}"
        on(before, system_part, name, str(out), stop=3)
        end = on(after, system_part, name, str(out))[0]
        assert farthest(end, whole) <= 1e-8


def test_a_registered_system_with_dropout_is_refused(tmp_path: Path) -> None:
    on(2, system_part, "esimcse", str(tmp_path / "run"), stop=3)
    with pytest.raises(ValueError, match="began with 2 processes and its encoder draws random numbers"):
        system_part("esimcse", str(tmp_path / "run"))
