"""A step that is not finite is never taken; the message names the first bad tensor and the rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training_toys import NoisyViews, QueueToy, Toy, UncoupledToy, build, make_rows, states_equal

from counterpoint.distributed import process_index
from counterpoint.sealing import read_state
from counterpoint.training.guard import NonFiniteError, gradient_norm
from counterpoint.training.train import train
from processes import run_on_processes

BAD_STEP = 7
"""Steps that are done before the bad one."""
BAD_ROW = "r0021"


class Poisoned(NoisyViews):
    """Views in which one row is broken."""

    def __call__(self, row: Any, rng: np.random.Generator) -> dict[str, Any]:
        view = super().__call__(row, rng)
        if row["id"] == BAD_ROW:
            view["first"][3] = torch.inf
        return view


def in_input(toy: Toy) -> None:
    toy.views = lambda: Poisoned()  # type: ignore[method-assign, assignment]


def at_step(toy: Toy, act: Callable[[], None]) -> None:
    """Act just before the loss of the bad step."""
    loss = toy.loss

    def late(features: dict[str, Tensor]) -> Any:
        if toy.clock.step == BAD_STEP:
            act()
        return loss(features)

    toy.loss = late  # type: ignore[method-assign]


def in_weight(toy: Toy) -> None:
    encode = toy.encode

    def late(batch: dict[str, Any]) -> dict[str, Tensor]:
        if toy.clock.step == BAD_STEP:
            with torch.no_grad():
                toy.backbone[0].bias[2] = torch.nan
        return encode(batch)

    toy.encode = late  # type: ignore[method-assign]


def in_loss(toy: Toy) -> None:
    loss = toy.loss

    def late(features: dict[str, Tensor]) -> Any:
        terms = loss(features)
        if toy.clock.step == BAD_STEP:
            terms["extra"] = next(iter(features.values())).sum() * torch.inf
        return terms

    toy.loss = late  # type: ignore[method-assign]


def in_gradient(toy: Toy, process: int = 0) -> None:
    def act() -> None:
        if process_index() == process:
            handle = toy.head.weight.register_hook(lambda grad: grad * torch.nan)
            toy.handles.append(handle)

    toy.handles = []  # type: ignore[assignment]
    at_step(toy, act)


def in_feature(toy: Toy) -> None:
    encode = toy.encode

    def late(batch: dict[str, Any]) -> dict[str, Tensor]:
        features = encode(batch)
        if toy.clock.step == BAD_STEP:
            features["second"] = (
                features["second"] / torch.where(torch.arange(len(batch["first"])) == 2, 0.0, 1.0)[:, None]
            )
        return features

    toy.encode = late  # type: ignore[method-assign]


PLACES: dict[str, tuple[Callable[[Toy], None], str]] = {
    "input": (in_input, r"input first is not finite \(rows r0021\)"),
    "weight": (in_weight, r"weight backbone\.0\.bias is not finite"),
    "feature": (in_feature, r"feature second is not finite \(rows r\d{4}\)"),
    "loss": (in_loss, r"loss term extra is not finite \(rows r\d{4}, "),
    "gradient": (in_gradient, r"gradient of head\.weight is not finite \(rows r"),
}


def poisoned_run(place: str, kind: type[Toy], out: str) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """(message, weights when the run stopped, weights before the bad step)."""
    toy = build(kind)
    PLACES[place][0](toy)
    before: dict[str, Tensor] = {}
    keep = toy.encode

    def remembering(batch: dict[str, Any]) -> dict[str, Tensor]:
        before.update({name: value.detach().clone() for name, value in toy.named_parameters()})
        return keep(batch)

    toy.encode = remembering  # type: ignore[method-assign]
    overrides = {"batch": 16, "steps": 20, "save_every": 3}
    with pytest.raises(NonFiniteError) as caught:
        train(toy, make_rows(), out=out, overrides=overrides, quiet=True)
    return str(caught.value), dict(toy.named_parameters()), before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Toy, UncoupledToy])
def test_a_bad_step_is_not_taken(tmp_path: Path, place: str, kind: type[Toy]) -> None:
    message, after, before = poisoned_run(place, kind, str(tmp_path / "run"))
    if place != "input":
        assert message.startswith(f"step {BAD_STEP + 1}: ")
    assert "The weights were not changed" in message
    assert re.search(PLACES[place][1], message), message
    if place == "weight":  # broken by the test itself, in the very step
        before["backbone.0.bias"][2] = torch.nan
        before = {name: torch.nan_to_num(value) for name, value in before.items()}
        after = {name: torch.nan_to_num(value) for name, value in after.items()}
    assert states_equal(before, after)


def test_overflow_of_the_scaler_is_no_error(tmp_path: Path) -> None:
    """float16 begins with a scale that is too large by design; the steps it skips end nothing."""
    toy = build(Toy)
    loss = toy.loss
    toy.loss = lambda features: {name: term * 100 for name, term in loss(features).items()}  # type: ignore[method-assign, operator]
    overrides = {"batch": 16, "steps": 12, "precision": "16-mixed", "log_every": 1}
    run = train(toy, make_rows(), out=tmp_path / "run", overrides=overrides, quiet=True)
    norms = [record["gradient_norm"] for record in run.metrics()]
    assert norms[0] is None and norms[-1] is not None
    _, values = read_state(run.checkpoints[-1])
    assert values["state"]["scaler"]["scale"] < 65536


def test_a_scaler_that_never_recovers_ends_the_run(tmp_path: Path) -> None:
    toy = build(Toy)
    toy.head.weight.register_hook(lambda grad: grad * torch.inf)
    overrides = {"batch": 16, "steps": 200, "precision": "16-mixed"}
    with pytest.raises(NonFiniteError, match="gradient of head.weight"):
        train(toy, make_rows(), out=tmp_path / "run", overrides=overrides, quiet=True)


def test_the_last_good_checkpoint_goes_on(tmp_path: Path) -> None:
    toy = build(QueueToy)
    in_loss(toy)
    overrides = {"batch": 16, "steps": 20, "save_every": 3}
    with pytest.raises(NonFiniteError, match=f"step {BAD_STEP + 1}.*checkpoints are in .*run"):
        train(toy, make_rows(), out=tmp_path / "run", overrides=overrides, quiet=True)
    run = train(build(QueueToy), make_rows(), out=tmp_path / "run", overrides=overrides, resume=True, quiet=True)
    assert run.result()["steps"] == 20


def gradient_of_one_process(out: str) -> str:
    toy = build(Toy)
    in_gradient(toy, process=1)
    try:
        train(toy, make_rows(), out=out, overrides={"batch": 16, "steps": 20}, quiet=True)
    except NonFiniteError as error:
        assert all(bool(torch.isfinite(value).all()) for value in toy.parameters())
        return str(error)
    raise AssertionError("nothing was raised")


def test_all_processes_stop_at_the_same_step_with_the_same_words(tmp_path: Path) -> None:
    messages = run_on_processes(gradient_of_one_process, 2, str(tmp_path / "run"))
    assert messages[0] == messages[1]
    assert f"step {BAD_STEP + 1}: gradient of head.weight is not finite" in messages[0]


def test_gradient_norm_is_that_of_all_gradients_together() -> None:
    parameters = [torch.zeros(3, requires_grad=True), torch.zeros(2, 2, requires_grad=True), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([1.0, 2.0, 2.0]), torch.full((2, 2), 2.0)
    assert float(gradient_norm(parameters)) == pytest.approx(5.0)
    assert float(gradient_norm(parameters[2:])) == 0.0
