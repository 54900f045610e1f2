"""One step of any system on some of the rows, on this process: what the tests of every system measure.

Workers import this module, so what travels is names and numbers only.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.batch_norm import convert_batch_norm
from counterpoint.data import Rows, open_rows
from counterpoint.distributed import average_gradients, process_count, process_index
from counterpoint.run import build_system
from counterpoint.system import Stage, System, find_system
from counterpoint.training.devices import make_fabric
from counterpoint.training.gradients import Gradients
from counterpoint.training.randomness import seed_everything
from counterpoint.training.recipe import read_recipe
from counterpoint.training.settings import TrainingSettings

ROWS = 8
SPLITS = {1: (8,), 2: (5, 3), 3: (4, 3, 1)}
"""Rows of each process: unequal on purpose."""
STEPS = 4
"""Steps that fill queues before the last one is compared."""


@cache
def recipe_rows(name: str) -> Rows:
    """The data of the tiny recipe."""
    recipe = read_recipe(name, "tiny")
    return open_rows(recipe.data, columns=recipe.columns or None)


def build_exact(name: str) -> System:
    """A system in float64 that draws no random numbers in training mode."""
    seed_everything(7)
    system = build_system(name, read_recipe(name, "tiny").system)
    system.use(system.prepare(recipe_rows(name)))
    system = system.to(torch.float64).train()
    for module in system.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return system


def doubled(value: Any) -> Any:
    """Floating tensors of a batch in float64."""
    if isinstance(value, Tensor):
        return value.to(torch.float64) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: doubled(item) for key, item in value.items()}
    return value


def samples_of(system: System, stage: Stage, rows: Rows, step: int) -> list[Mapping[str, Any]]:
    """The views of all rows of a step; every process draws the same."""
    view = getattr(system, stage.views or "views")()
    chosen = [(step * ROWS + i) % len(rows) for i in range(ROWS)]
    return [view(rows[index], np.random.default_rng([step, index])) for index in chosen]


def gradients_of(name: str, stage_name: str, micro_batch: int | None = None) -> dict[str, np.ndarray]:
    """Loss, gradients and buffers of the last of `STEPS` steps (without an optimiser), as NumPy arrays.

    Every process takes its own part of the same rows.
    """
    torch.set_num_threads(1)
    system = build_exact(name)
    if process_count() > 1:
        convert_batch_norm(system)
    stage = next(stage for stage in system.stages() if stage.name == stage_name)
    fabric, _ = make_fabric(TrainingSettings(device="cpu"))
    encode, loss = getattr(system, stage.encode or "encode"), getattr(system, stage.loss or "loss")
    gradients = Gradients(system, encode, loss, fabric, micro_batch)
    ends = np.cumsum(SPLITS[process_count()]).tolist()
    first = ([0, *ends])[process_index()]
    system.clock.epoch, system.clock.stage = 1000, stage.name
    for step in range(STEPS):
        system.clock.step = 10_000 + step
        samples = samples_of(system, stage, recipe_rows(name), step)
        batch = doubled(system.collate(samples[first : ends[process_index()]]))
        with torch.no_grad():
            system.before_step()
        result = gradients([batch], 0, step)
        average_gradients(system.parameters())
        if step < STEPS - 1:
            with torch.no_grad():
                system.after_step(result.features)
    found = {"loss": result.loss, **{f"buffer {key}": value for key, value in system.named_buffers()}}
    found |= {f"gradient {key}": p.grad for key, p in system.named_parameters() if p.grad is not None}
    return {key: value.detach().numpy().copy() for key, value in found.items()}


def arguments_of(name: str, recipe: str) -> dict[str, tuple[Any, Any]]:
    """Constructor arguments of a recipe with their type hints."""
    hints = typing.get_type_hints(find_system(name).cls.__init__)
    return {key: (value, hints.get(key)) for key, value in read_recipe(name, recipe).system.items()}
