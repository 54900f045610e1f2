"""`shard`: processes that keep only their share of the weights end where one process ends."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_processes import farthest, settings
from torch import Tensor, nn
from training_toys import (
    DIM,
    WIDTH,
    QueueToy,
    StagedToy,
    Toy,
    UncoupledToy,
    build,
    final_weights,
    make_rows,
    same_end,
    stop_after,
)

from counterpoint.distributed import process_count, process_index
from counterpoint.encoders.base import Encoder
from counterpoint.memory import MomentumEncoder
from counterpoint.run import Run, list_checkpoints, load
from counterpoint.sharded import is_shared, local
from counterpoint.storage import read_tensors
from counterpoint.training.guard import NonFiniteError
from counterpoint.training.interrupt import Interrupted
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
    """Puts the network into a toy, which counts what a process holds of it."""

    backbone: nn.Module

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backbone = Network().to(next(super().parameters()).dtype)  # type: ignore[misc]
        self.held: list[int] = []

    def after_step(self, features: dict[str, Tensor]) -> None:
        super().after_step(features)  # type: ignore[misc]
        self.held.append(sum(local(parameter).numel() for parameter in self.backbone.parameters()))


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
        read = self.backbone.layers[0][0].weight[0] @ torch.ones(HIDDEN).double()  # type: ignore[union-attr, index]
        return {"contrast": (features["first"] @ features["second"].T).mean() + read}


def whole_run(
    kind: type[Toy], out: str, overrides: dict[str, Any], resume: bool = False, stop: int | None = None
) -> dict[str, Tensor]:
    """A run in float64 to its end, or until process 0 is asked to stop while it computes step number `stop`."""
    torch.set_default_dtype(torch.float64)
    toy = build(kind, dtype="float64")
    if stop is not None and process_index() == 0:
        stop_after(toy, stop)
    try:
        train(toy, make_rows(), out=out, overrides=overrides, quiet=True, resume=resume)
    except Interrupted:
        assert stop is not None
        return {}
    finally:
        torch.set_default_dtype(torch.float32)
    return {name: value.detach().clone() for name, value in toy.state_dict().items()}


def shared(**changes: Any) -> dict[str, Any]:
    return settings(**{"steps": 12, "shard": True, **changes})


@pytest.mark.parametrize("processes", [2, 3])
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


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kind", [SharedQueueToy, SharedUncoupledToy])
def test_pieces_accumulation_and_clipping(tmp_path: Path, kind: type[Toy], changes: dict[str, Any]) -> None:
    one = whole_run(kind, str(tmp_path / "one"), shared(**{**changes, "micro_batch": None}))
    for found in run_on_processes(whole_run, 2, kind, str(tmp_path / "two"), shared(**changes)):
        assert farthest(one, found) <= 1e-6


def test_each_process_holds_its_share(tmp_path: Path) -> None:
    found = run_on_processes(held, 3, str(tmp_path / "run"))
    whole = sum(parameter.numel() for parameter in Network().parameters())
    blocks = 3 * HIDDEN * (HIDDEN + 1) + DIM * (HIDDEN + 1)
    for process, (weights, state) in enumerate(found):
        assert whole - blocks < weights <= whole - blocks + blocks / 3 + HIDDEN
        assert state == (2 * weights if process else state), "AdamW keeps two numbers for each weight that is held"
    assert sum(weights for weights, _ in found) == 3 * (whole - blocks) + blocks


def held(out: str) -> tuple[int, int]:
    """Weights of the encoder on this process, and numbers of optimiser state for them."""
    from counterpoint.training.loop import Trainer

    state = [0]
    update = Trainer._update

    def counting(self: Trainer, prepared: Any, size: float) -> None:
        update(self, prepared, size)
        own = {id(parameter) for parameter in self.system.backbone.parameters()}  # type: ignore[operator, union-attr]
        state[0] = sum(
            local(value).numel()
            for parameter, values in prepared.optimiser.state.items()
            if id(parameter) in own
            for value in values.values()
            if value.dim() > 0 or parameter.dim() == 0 and value is not values["step"]
        )

    Trainer._update = counting  # type: ignore[method-assign]
    try:
        toy = build(SharedToy)
        train(toy, make_rows(), out=out, overrides=shared(steps=2, optimiser="adamw"), quiet=True)
    finally:
        Trainer._update = update  # type: ignore[method-assign]
    return toy.held[-1], state[0]  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("before, after", [((2, True), (1, False)), ((2, False), (3, True)), ((3, True), (2, True))])
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
    "changes", [{"optimiser": "lars"}, {"optimiser": "larc"}, {"optimiser": "lamb"}, {"precision": "16-mixed"}]
)
def test_what_needs_whole_weights_is_refused(changes: dict[str, Any]) -> None:
    name = "=".join(next(iter(changes.items())))
    with pytest.raises(ValueError, match=f"{name} needs whole weights .* optimiser=adamw or sgd"):
        TrainingSettings(shard=True, **changes)
    with pytest.raises(ValueError, match="compile=True"):
        TrainingSettings(shard=True, compile=True)


def test_a_system_without_an_encoder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard=true: Toy has no encoder whose weights could be shared out"):
        run_on_processes(whole_run, 2, Toy, str(tmp_path / "run"), shared())
    assert not (tmp_path / "run").exists()


class LateLarsToy(SharedStagedToy):
    def stages(self) -> list[Any]:
        stages = super().stages()
        assert stages[-1].optimiser is not None
        stages[-1].optimiser["name"] = "lars"  # type: ignore[index]
        return stages


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

    toy.backbone.stem.register_forward_pre_hook(full)  # type: ignore[union-attr]
    train(toy, make_rows(), out=out, overrides=shared(micro_batch=4), quiet=True)


def test_a_bad_share_is_named_on_every_process(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"step 3: weight backbone.layers.1.0.weight is not finite"):
        run_on_processes(poisoned_run, 2, str(tmp_path / "run"))


def poisoned_run(out: str) -> None:
    """A number in the share of the last process becomes NaN."""
    toy = build(SharedToy)

    def poison() -> None:
        if toy.clock.step == 2 and process_index() == process_count() - 1:
            local(toy.backbone.layers[1][0].weight)[0, 0] = torch.nan  # type: ignore[union-attr, index]

    toy.before_step = poison  # type: ignore[method-assign]
    type(toy).before_step = lambda self: None  # type: ignore[method-assign]
    try:
        train(toy, make_rows(), out=out, overrides=shared(), quiet=True)
    finally:
        del type(toy).before_step
