"""`shard`: processes that keep only their share of the weights end where one process ends."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import farthest, settings, whole_run
from torch import Tensor, nn
from training_toys import (
    DIM,
    WIDTH,
    BadRowViews,
    QueueToy,
    StagedToy,
    Toy,
    UncoupledToy,
    build,
    final_weights,
    make_rows,
    same_end,
)

from counterpoint.distributed import process_count, process_index
from counterpoint.encoders.base import Encoder
from counterpoint.memory import MomentumEncoder
from counterpoint.run import Run, list_checkpoints, load
from counterpoint.sharded import is_shared, local
from counterpoint.storage import read_tensors
from counterpoint.system import Stage
from counterpoint.training.guard import NonFiniteError
from counterpoint.training.loop import Trainer
from counterpoint.training.settings import TrainingSettings
from counterpoint.training.train import train
from processes import run_on_processes

HIDDEN = 72


class Network(Encoder):
    """Blocks in a list, a stem and an exit beside them, a parameter of its own, and a method beside `forward`."""

    def __init__(self) -> None:
        super().__init__("network")
        self.stem = nn.Linear(WIDTH, HIDDEN)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh()) for _ in range(2))
        self.exit = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, DIM))
        self.scale = nn.Parameter(torch.ones(()))

    def save_assets(self, folder: Path) -> dict[str, Any]:
        return {}

    def hidden(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.hidden(x)) * self.scale


class Sharing:
    """Puts the network into a toy."""

    backbone: nn.Module

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backbone = Network().to(next(super().parameters()).dtype)  # type: ignore[misc]


class SharedToy(Sharing, Toy):
    pass


class SharedUncoupledToy(Sharing, UncoupledToy):
    pass


class SharedStagedToy(Sharing, StagedToy):
    pass


class SharedQueueToy(Sharing, QueueToy):
    """With a momentum encoder of the library."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.slow = MomentumEncoder(self.backbone, 0.9)

    def before_step(self) -> None:
        self.slow.update(self.backbone)

    def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {**super().encode(batch), "key": self.slow(batch["second"])}


class ReadingToy(SharedToy):
    """Its loss reads weights of the encoder, which are not all there."""

    def loss(self, features: dict[str, Tensor]) -> dict[str, Any]:
        weight = self.backbone.get_parameter("layers.0.0.weight")
        return {"contrast": features["first"].square().mean() + (weight @ torch.ones(HIDDEN, dtype=weight.dtype)).sum()}


def shared(**changes: Any) -> dict[str, Any]:
    return settings(**{"steps": 12, "shard": True, **changes})


SLOW_THREE = [2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.mark.parametrize("processes", SLOW_THREE)
@pytest.mark.parametrize("kind", [SharedToy, SharedQueueToy, SharedUncoupledToy, SharedStagedToy])
def test_shared_weights_end_where_one_process_ends(tmp_path: Path, kind: type[Toy], processes: int) -> None:
    one = whole_run(kind, str(tmp_path / "one"), shared())
    answers = run_on_processes(whole_run, processes, kind, str(tmp_path / "many"), shared())
    for found in answers:
        assert farthest(one, found) <= 1e-6
        assert farthest(answers[0], found) == 0.0
    moved = farthest(one, {name: value for name, value in build(kind, dtype="float64").state_dict().items()})
    assert moved > 1e-2
    assert farthest(one, final_weights(tmp_path / "many")) <= 1e-6


VARIANTS: dict[str, dict[str, Any]] = {
    "pieces": {"micro_batch": 3},
    "one row too few": {"micro_batch": 1},  # 7 rows here, 6 there: the seventh piece is empty
    "accumulated": {"accumulate": 2, "micro_batch": 3},
    "adamw, clipped": {"optimiser": "adamw", "learning_rate": 0.01, "clip_gradient": 0.1},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kind", [SharedQueueToy, SharedUncoupledToy])
def test_pieces_accumulation_and_clipping(tmp_path: Path, kind: type[Toy], changes: dict[str, Any]) -> None:
    one = whole_run(kind, str(tmp_path / "one"), shared(**{**changes, "micro_batch": None}))
    for found in run_on_processes(whole_run, 2, kind, str(tmp_path / "two"), shared(**changes)):
        assert farthest(one, found) <= 1e-6


class EmptySharesToy(SharedToy):
    """Every ninth row cannot be used, so that in a batch of three rows the second process has none at times."""

    def views(self) -> Any:
        return BadRowViews(super().views())


class EmptySharesUncoupledToy(SharedUncoupledToy):
    def views(self) -> Any:
        return BadRowViews(super().views())


@pytest.mark.parametrize("kind", [EmptySharesToy, EmptySharesUncoupledToy])
def test_a_process_without_rows_takes_part(tmp_path: Path, kind: type[Toy]) -> None:
    changes = shared(batch=3, steps=32, max_skip_rate=0.5)
    one = whole_run(kind, str(tmp_path / "one"), changes)
    for found in run_on_processes(whole_run, 2, kind, str(tmp_path / "two"), changes):
        assert farthest(one, found) <= 1e-6
    assert len(Run(tmp_path / "two").result()["skipped"]) == 8


@pytest.mark.parametrize("processes", SLOW_THREE)
def test_each_process_holds_its_share(tmp_path: Path, processes: int) -> None:
    found = run_on_processes(held, processes, str(tmp_path / "run"))
    whole = sum(parameter.numel() for parameter in Network().parameters())
    blocks = 3 * HIDDEN * (HIDDEN + 1) + DIM * (HIDDEN + 1)
    for weights, gradients, state in found:
        assert whole - blocks < weights <= whole - blocks + blocks / processes + 4 * HIDDEN
        assert gradients == weights
        assert state == 2 * weights  # of AdamW
    assert sum(weights for weights, _, _ in found) == processes * (whole - blocks) + blocks


def held(out: str) -> tuple[int, int, int]:
    """Weights of the encoder on this process, their gradients, and the optimiser's state for them."""
    found = []
    update = Trainer._update

    def counting(self: Trainer, prepared: Any, size: float) -> None:
        update(self, prepared, size)
        parameters = list(self.system.get_submodule("backbone").parameters())
        states = [prepared.optimiser.state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq")]
        held = (parameters, [p.grad for p in parameters if p.grad is not None], states)
        found.append([sum(local(value).numel() for value in values) for values in held])

    Trainer._update = counting  # type: ignore[method-assign]
    try:
        train(build(SharedToy), make_rows(), out=out, overrides=shared(steps=2, optimiser="adamw"), quiet=True)
    finally:
        Trainer._update = update  # type: ignore[method-assign]
    weights, gradients, state = found[-1]
    return weights, gradients, state


def test_checkpoints_are_plain_and_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    changes = shared(optimiser="adamw", learning_rate=0.01, save_every=4)
    run_on_processes(whole_run, 2, SharedQueueToy, str(tmp_path / "unbroken"), changes)
    run_on_processes(whole_run, 2, SharedQueueToy, str(tmp_path / "broken"), changes, stop=5)
    plain = {**changes, "shard": False}
    run_on_processes(whole_run, 2, SharedQueueToy, str(tmp_path / "plain"), plain, stop=5)
    for part in ("model", "optimiser"):
        ours, theirs = (
            read_tensors(list_checkpoints(tmp_path / name / "checkpoints")[-1] / f"{part}.safetensors")
            for name in ("broken", "plain")
        )
        assert {name: value.shape for name, value in ours.items()} == {n: value.shape for n, value in theirs.items()}
        assert farthest(ours, theirs) <= 1e-6
    run_on_processes(whole_run, 2, SharedQueueToy, str(tmp_path / "broken"), changes, resume=True)
    assert same_end(tmp_path / "unbroken", tmp_path / "broken")


OTHERS = [
    ((2, True), (1, False)),
    ((2, False), (2, True)),
    pytest.param((2, False), (3, True), marks=pytest.mark.slow),
    pytest.param((3, True), (2, True), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_a_run_goes_on_with_or_without(tmp_path: Path, before: tuple[int, bool], after: tuple[int, bool]) -> None:
    changes = shared(optimiser="adamw", learning_rate=0.01)
    one = whole_run(SharedQueueToy, str(tmp_path / "one"), {**changes, "shard": False})
    path = str(tmp_path / "parts")
    (processes, shard), (later, then) = before, after
    run_on_processes(whole_run, processes, SharedQueueToy, path, {**changes, "shard": shard}, stop=5)
    again = {**changes, "shard": then}
    found = (
        whole_run(SharedQueueToy, path, again, resume=True)
        if later == 1
        else run_on_processes(whole_run, later, SharedQueueToy, path, again, resume=True)[0]
    )
    assert farthest(one, found) <= 1e-6
    loaded = load(Run(path), system=build(SharedQueueToy, dtype="float64"))
    assert farthest(one, dict(loaded.state_dict())) <= 1e-6


def test_the_system_is_plain_afterwards(tmp_path: Path) -> None:
    assert all(run_on_processes(plain_afterwards, 2, str(tmp_path)))


def plain_afterwards(folder: str) -> bool:
    """Called by one process alone, copied, and shared out once more."""
    toy = build(SharedToy)
    toy.backbone.to(memory_format=torch.channels_last)
    kinds = [type(module) for module in toy.modules()]
    attributes = [sorted(vars(module)) for module in toy.modules()]
    for name in ("first", "second"):
        train(toy, make_rows(), out=f"{folder}/{name}", overrides=shared(steps=3), quiet=True)
        assert [type(module) for module in toy.modules()] == kinds
        assert [sorted(vars(module)) for module in toy.modules()] == attributes
        assert not any(is_shared(parameter) for parameter in toy.parameters())
        assert all(not module._forward_hooks and not module._forward_pre_hooks for module in toy.modules())
    if process_index() == 1:
        copy.deepcopy(toy).backbone(torch.zeros(1, WIDTH)).sum().backward()
    return True


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimiser", "lars"), ("optimiser", "larc"), ("optimiser", "lamb"), ("precision", "16-mixed"), ("compile", True)],
)
def test_what_needs_whole_weights_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} needs whole weights .* optimiser=adamw or sgd"):
        TrainingSettings(shard=True, **{name: value})


class DroppingToy(SharedToy):
    """Draws random numbers for the rows of a process."""

    def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {name: torch.dropout(value, 0.3, True) for name, value in super().encode(batch).items()}


def test_dropout_in_pieces_goes_on_as_it_began(tmp_path: Path) -> None:
    path, changes = str(tmp_path / "run"), shared(micro_batch=3)
    run_on_processes(whole_run, 2, DroppingToy, path, changes, stop=5)
    with pytest.raises(ValueError, match="began with shard=True .* with shard=False its pieces are others"):
        run_on_processes(whole_run, 2, DroppingToy, path, {**changes, "shard": False}, resume=True)
    run_on_processes(whole_run, 2, DroppingToy, path, changes, resume=True)
    assert Run(path).finished


def test_a_system_without_an_encoder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard=true: Toy has no encoder whose weights could be shared out"):
        run_on_processes(whole_run, 2, Toy, str(tmp_path / "run"), shared())
    assert not (tmp_path / "run").exists()


class LateLarsToy(SharedStagedToy):
    def stages(self) -> list[Stage]:
        return [*super().stages()[:-1], Stage("late", steps=4, optimiser={"name": "lars"})]


def test_an_optimiser_of_a_stage_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stage 'late' of LateLarsToy: optimiser=lars needs whole weights"):
        run_on_processes(whole_run, 2, LateLarsToy, str(tmp_path / "run"), shared())
    assert not (tmp_path / "run").exists()


def test_reading_weights_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be used with ReadingToy: it reads weights of an encoder outside"):
        run_on_processes(whole_run, 2, ReadingToy, str(tmp_path / "run"), shared())
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory with shard=true and micro_batch=4.*smaller micro_batch"):
        run_on_processes(small_run, 2, str(tmp_path / "run"))


def small_run(out: str) -> None:
    """Every process runs out of memory at once, so that none of them waits for another here."""
    toy = build(SharedToy)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    toy.backbone.get_submodule("stem").register_forward_pre_hook(full)
    train(toy, make_rows(), out=out, overrides=shared(micro_batch=4), quiet=True)


def test_a_bad_share_is_named_on_every_process(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"step 3: weight backbone.layers.1.0.weight is not finite"):
        run_on_processes(poisoned_run, 2, str(tmp_path / "run"))


class PoisonedToy(SharedToy):
    """Before the third step a number in the share of the last process becomes NaN."""

    def before_step(self) -> None:
        if self.clock.step == 2 and process_index() == process_count() - 1:
            local(self.backbone.get_parameter("layers.1.0.weight"))[0, 0] = torch.nan


def poisoned_run(out: str) -> None:
    train(build(PoisonedToy), make_rows(), out=out, overrides=shared(), quiet=True)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_norm_and_precision_are_those_of_whole_weights(tmp_path: Path, precision: str) -> None:
    changes = {"precision": precision, "clip_gradient": 0.1, "log_every": 1, "steps": 6}
    run_on_processes(float_run, 2, str(tmp_path / "whole"), shared(**changes, shard=False))
    run_on_processes(float_run, 2, str(tmp_path / "shares"), shared(**changes))
    first, second = (final_weights(tmp_path / name) for name in ("whole", "shares"))
    assert farthest(first, second) <= 1e-6
    whole, shares = (Run(tmp_path / name).metrics() for name in ("whole", "shares"))
    assert len(whole) == len(shares) == 6
    for figure in ("gradient_norm", "loss"):
        assert [line[figure] for line in shares] == pytest.approx([line[figure] for line in whole], rel=1e-5)
    assert all(0 < line["update_ratio"] < 1 for line in shares)


def float_run(out: str, overrides: dict[str, Any]) -> None:
    train(build(SharedToy), make_rows(), out=out, overrides=overrides, quiet=True)


def text_rows() -> list[dict[str, str]]:
    words = ["cat", "dog", "tree", "sea", "house", "moon", "song"]
    return [{"text": " ".join(words[(i * k + k) % 7] for k in range(1, 3 + i % 9))} for i in range(40)]


def text_run(system: str, arguments: dict[str, Any], out: str, overrides: dict[str, Any]) -> dict[str, Tensor]:
    """A system of the library in float64, without dropout."""
    torch.set_default_dtype(torch.float64)
    try:
        train(
            system,
            text_rows(),
            out=out,
            recipe="tiny",
            arguments={"encoder": "bert:2x64x2", "layers": None, "dropout": 0.0, **arguments},
            overrides=shared(**{"steps": 4, "learning_rate": 0.1, **overrides}),
            quiet=True,
        )
    finally:
        torch.set_default_dtype(torch.float32)
    return final_weights(Path(out))


REAL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "simcse": ("esimcse", {"queue": 0, "repetition": 0.0}, {}),
    "moco, in pieces": (
        "contriever",
        {"mode": "moco"},
        {"micro_batch": 3, "optimiser": "adamw", "learning_rate": 1e-3},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", REAL)
def test_systems_of_the_library_end_where_one_process_ends(tmp_path: Path, name: str, processes: int) -> None:
    system, arguments, overrides = REAL[name]
    one = text_run(system, arguments, str(tmp_path / "one"), {**overrides, "micro_batch": None})
    found = run_on_processes(text_run, processes, system, arguments, str(tmp_path / "many"), overrides)
    assert farthest(one, found[0]) <= 1e-6


def tiny_run(system: str, out: str, shard: bool) -> None:
    overrides = {"steps": 2, "shard": shard, "optimiser": "sgd", "learning_rate": 0.01}
    train(system, out=out, recipe="tiny", overrides=overrides, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["clip", "swav", "denseclip", "w2v_bert", "clip_lit", "segment"])
def test_tiny_recipes_end_as_without_it(tmp_path: Path, system: str) -> None:
    for name, shard in (("whole", False), ("shares", True)):
        run_on_processes(tiny_run, 2, system, str(tmp_path / name), shard)
    assert farthest(final_weights(tmp_path / "whole"), final_weights(tmp_path / "shares")) <= 1e-6


@pytest.mark.slow
def test_a_system_that_asks_blocks_for_their_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be used with XCLIP: it reads weights of an encoder outside"):
        run_on_processes(tiny_run, 2, "x_clip", str(tmp_path / "run"), True)
