"""Health: warnings within 50 steps where something is wrong, silence where nothing is."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_toys import QueueToy, Toy, build, make_rows

from counterpoint.data import Loader
from counterpoint.run import Run
from counterpoint.training.health import HealthMonitor, Observation, embedding_figures
from counterpoint.training.train import train


def run(toy: Toy, out: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Run:
    overrides = {"batch": 32, "steps": 50, "learning_rate": 3e-3, **changes}
    return train(toy, rows if rows is not None else make_rows(256), out=out, overrides=overrides, quiet=True)


def warned(found: Run) -> dict[str, int]:
    return found.result()["warnings"]


def constant_encoder(toy: Toy) -> Toy:
    """Every row gets the same vector, a trainable one."""
    toy.encode = (
        lambda batch: {  # type: ignore[method-assign]
            name: toy.backbone[0].bias[:6].expand(len(batch[name]), 6) for name in ("first", "second")
        }
    )
    return toy


def one_direction(toy: Toy) -> Toy:
    """All rows on one line."""
    encode = toy.encode

    def flat(batch: dict[str, Any]) -> dict[str, Tensor]:
        line = torch.arange(1.0, 7.0)
        return {name: value[:, :1] * line for name, value in encode(batch).items()}

    toy.encode = flat  # type: ignore[method-assign]
    return toy


def wrong_pairs(toy: Toy) -> Toy:
    """The second view is that of another row: nothing can be learned."""
    encode = toy.encode
    generator = torch.Generator().manual_seed(0)

    def shuffled(batch: dict[str, Any]) -> dict[str, Tensor]:
        features = encode(batch)
        return {**features, "second": features["second"][torch.randperm(len(features["second"]), generator=generator)]}

    toy.encode = shuffled  # type: ignore[method-assign]
    return toy


def detached(toy: Toy) -> Toy:
    """Features without a graph and a head that is not used."""
    encode = toy.encode
    toy.encode = lambda batch: {name: value.detach() for name, value in encode(batch).items()}  # type: ignore[method-assign]
    toy.head.requires_grad_(False)
    return toy


def test_a_constant_encoder_is_noticed(tmp_path: Path) -> None:
    found = warned(run(constant_encoder(build(Toy)), tmp_path / "run"))
    assert found["collapse"] <= 50 and found["duplicates"] <= 50 and found["guess"] <= 50


def test_a_flat_embedding_is_noticed(tmp_path: Path) -> None:
    assert warned(run(one_direction(build(Toy)), tmp_path / "run"))["collapse"] <= 50


def test_a_loss_at_the_guess_level_is_noticed(tmp_path: Path) -> None:
    found = run(wrong_pairs(build(Toy)), tmp_path / "run")
    assert warned(found)["guess"] <= 50
    assert found.metrics()[-1]["guess"] == pytest.approx(math.log(32))


def test_repeated_rows_are_noticed(tmp_path: Path) -> None:
    """Each of 10 rows comes 26 times under other ids; without noise the copies are equal."""
    rows = [{**row, "id": f"{row['id']}-{copy}"} for row in make_rows(10) for copy in range(26)]
    found = warned(run(build(Toy, noise=0.0), tmp_path / "run", rows))
    assert found["duplicates"] <= 50
    assert "collapse" not in found


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_learning_rate_that_does_nothing_is_noticed(tmp_path: Path, optimiser: str) -> None:
    changes = {"learning_rate": 1e-9, "optimiser": optimiser, "weight_decay": 0.0}
    assert warned(run(build(Toy), tmp_path / "run", **changes))["idle"] <= 50


def test_a_gradient_that_reaches_nothing_is_noticed(tmp_path: Path) -> None:
    assert warned(run(detached(build(Toy)), tmp_path / "run"))["no_gradient"] <= 50


def test_waiting_for_data_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Loader.batches

    def slow(self: Loader, epoch: int, start: int = 0) -> Any:
        for batch in batches(self, epoch, start):
            deadline = time.perf_counter() + 0.03  # a slow disk, in effect
            while time.perf_counter() < deadline:
                pass
            yield batch

    monkeypatch.setattr(Loader, "batches", slow)
    assert warned(run(build(Toy), tmp_path / "run"))["starvation"] <= 50


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", [Toy, QueueToy])
def test_healthy_runs_are_silent(tmp_path: Path, seed: int, kind: type[Toy]) -> None:
    found = run(build(kind, seed=seed), tmp_path / "run", make_rows(256, seed=seed), steps=60, seed=seed)
    assert warned(found) == {}
    assert found.metrics()[-1]["loss"] < found.metrics()[0]["loss"]


def test_a_long_warm_up_is_no_alarm(tmp_path: Path) -> None:
    changes = {"steps": 60, "warmup_steps": 55, "learning_rate": 1e-3}
    assert warned(run(build(Toy), tmp_path / "run", **changes)) == {}


def test_early_steps_are_watched_whatever_the_log_interval(tmp_path: Path) -> None:
    found = run(constant_encoder(build(Toy)), tmp_path / "run", log_every=1000)
    assert warned(found)["collapse"] <= 50


def observe(monitor: HealthMonitor, step: int, **figures: Any) -> list[str]:
    values = {"step": step, "loss": 1.0, "gradient_norm": 1.0, "update_ratio": 1e-3, "wait_share": 0.0, **figures}
    return [warning.kind for warning in monitor.observe(Observation(figures=values))[1]]


def test_getting_better_is_no_alarm() -> None:
    monitor = HealthMonitor()
    for step in range(10, 300, 10):
        assert observe(monitor, step, guess=5.0, guessed_loss=5.2 - step * 3e-3) == []


def test_each_kind_is_warned_of_once() -> None:
    monitor = HealthMonitor()
    found = [observe(monitor, step, guess=5.0, guessed_loss=5.0) for step in range(10, 200, 10)]
    assert sum(found, []) == ["guess"]


def test_the_monitor_goes_on_where_it_stopped() -> None:
    whole, parts = HealthMonitor(), HealthMonitor()
    steps = list(range(10, 100, 10))
    wanted = [observe(whole, step, guess=5.0, guessed_loss=5.0) for step in steps]
    found = []
    for step in steps:
        parts = HealthMonitor.from_memory(parts.memory())
        found.append(observe(parts, step, guess=5.0, guessed_loss=5.0))
    assert found == wanted
    assert parts.memory() == whole.memory()


def test_figures_of_known_embeddings() -> None:
    spread = torch.eye(8)
    figures = embedding_figures(spread, spread)
    assert figures["alignment"] == 0
    assert figures["uniformity"] == pytest.approx(-4.0)  # all pairs at squared distance 2
    assert figures["effective_rank"] == pytest.approx(8.0)
    assert figures["duplicate_rate"] == 0
    same = torch.ones(8, 8)
    figures = embedding_figures(same, -same)
    assert figures["alignment"] == pytest.approx(4.0)
    assert figures["duplicate_rate"] == 1
    assert figures["effective_rank"] < 2


def test_the_push_is_measured_where_there_is_a_temperature() -> None:
    spread = torch.eye(11)
    assert "hardest_share" not in embedding_figures(spread, spread)
    assert embedding_figures(spread, spread, 0.1)["hardest_share"] == pytest.approx(0.1)


@pytest.mark.parametrize("pair", [torch.zeros(1, 4), torch.full((8, 4), torch.nan), torch.zeros(0, 4)])
def test_figures_that_cannot_be_had_are_left_out(pair: Tensor) -> None:
    assert embedding_figures(pair, pair) == {}
