"""Optimisers by name, built over a system's own parameter groups; their state travels by parameter name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from counterpoint.sharded import is_shared, local, part_like, whole_state
from counterpoint.system import System
from counterpoint.training.settings import TrainingSettings

__all__ = [
    "build_optimiser",
    "export_state",
    "freeze_all_but",
    "import_state",
    "set_learning_rate",
    "share_state",
    "whole_states",
]

OptimiserState = dict[str, dict[str, Any]]
"""Parameter name -> state by key; what survives a stage or a restart."""

_FUSED = ("cpu", "cuda")
"""Devices on which torch has fused optimisers; others take the plain ones."""

_GROUP_STEP = "group_step"
"""Key of a step count that an optimiser (lamb) keeps for a whole group."""


def freeze_all_but(system: System, prefixes: Sequence[str], trainable: Mapping[str, bool]) -> None:
    """Let only parameters train whose name starts with one of `prefixes` (all when there are none).

    Args:
        system: changed in place.
        prefixes: of a stage.
        trainable: name -> whether the parameter trained when the system was built; frozen ones stay frozen.

    Raises:
        ValueError: a prefix matches nothing.
    """
    for prefix in prefixes:
        if not any(_below(name, prefix) for name in trainable):
            tops = sorted({name.split(".")[0] for name in trainable})
            raise ValueError(f"a stage trains {prefix!r}, but no parameter is called so; there are {', '.join(tops)}")
    for name, parameter in system.named_parameters():
        chosen = not prefixes or any(_below(name, prefix) for prefix in prefixes)
        parameter.requires_grad_(trainable[name] and chosen)


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def build_optimiser(system: System, settings: TrainingSettings) -> Optimizer:
    """The optimiser of a stage. Every group keeps its `scale`, the factor of the learning rate.

    Raises:
        ValueError: nothing to train, or the system's groups leave out or repeat a parameter.
    """
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    groups: list[dict[str, Any]] = []
    grouped: set[int] = set()
    for group in system.parameter_groups():
        wanted = [parameter for parameter in group["params"] if parameter.requires_grad]
        twice = [names.get(id(parameter), "?") for parameter in wanted if id(parameter) in grouped]
        if twice:
            raise ValueError(f"parameter_groups() of {type(system).__name__} lists {twice[0]} twice")
        grouped.update(map(id, wanted))
        for shared in (False, True):  # a kernel that goes through many parameters at once takes one kind of them
            alike = [parameter for parameter in wanted if is_shared(parameter) == shared]
            if alike:
                weight_decay = group.get("weight_decay", settings.weight_decay)
                groups.append({"params": alike, "weight_decay": weight_decay, "scale": group.get("scale", 1.0)})
    missing = [
        n for n, parameter in system.named_parameters() if parameter.requires_grad and id(parameter) not in grouped
    ]
    if missing:
        raise ValueError(
            f"parameter_groups() of {type(system).__name__} leaves out {missing[0]} and {len(missing) - 1} more; "
            "list them, or set requires_grad=False to freeze them"
        )
    if not groups:
        raise ValueError(f"{type(system).__name__} has no parameter to train: everything is frozen")
    optimiser = _make(groups, settings)
    set_learning_rate(optimiser, settings.learning_rate)
    return optimiser


def _make(groups: list[dict[str, Any]], settings: TrainingSettings) -> Optimizer:
    rate, momentum = settings.learning_rate, settings.momentum
    if settings.optimiser == "adamw":
        # One kernel for all of an update: a fifth of the time on a CPU. It would unscale float16 gradients itself,
        # which the trainer has done before, to look at their norm.
        scaled = settings.precision == "16-mixed"
        fused = not scaled and all(_fusible(parameter) for group in groups for parameter in group["params"])
        return torch.optim.AdamW(groups, lr=rate, betas=settings.betas, eps=settings.epsilon, fused=fused)
    if settings.optimiser == "sgd":  # its fused kernel fails where one parameter has a state and the next has none yet
        return torch.optim.SGD(groups, lr=rate, momentum=momentum)
    from timm.optim import Lamb, Lars  # timm takes a second to import; most runs do not need it

    if settings.optimiser == "lamb":  # without timm's own clipping: `clip_gradient` is there for that
        return Lamb(groups, lr=rate, betas=settings.betas, eps=settings.epsilon, max_grad_norm=None)
    # LARC (You et al. 2017 with the local rate clipped at the schedule's) adapts every parameter; LARS leaves those
    # without weight decay (biases, norms) at the plain rate.
    larc = settings.optimiser == "larc"
    return Lars(groups, lr=rate, momentum=momentum, trust_clip=larc, always_adapt=larc)


def _fusible(parameter: Tensor) -> bool:
    """Whether a fused kernel may go through parameter, gradient and state as they lie in memory.

    With gaps or overlaps in it, its gradient does not lie as it does.
    """
    parameter = local(parameter)
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    return parameter.device.type in _FUSED and dense


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own scale."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["scale"]


def export_state(optimiser: Optimizer, module: nn.Module) -> OptimiserState:
    """The optimiser's state by parameter name."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    steps = {
        id(parameter): {_GROUP_STEP: group["step"].clone()}
        for group in optimiser.param_groups
        for parameter in group["params"]
        if "step" in group
    }
    return {names[id(p)]: {**state, **steps.get(id(p), {})} for p, state in optimiser.state.items()}


def import_state(optimiser: Optimizer, module: nn.Module, state: OptimiserState) -> None:
    """Give an optimiser the state of those of its parameters that have one."""
    parameters = dict(module.named_parameters())
    held = {id(parameter): group for group in optimiser.param_groups for parameter in group["params"]}
    for name, values in state.items():
        parameter = parameters.get(name)
        if parameter is not None and id(parameter) in held:
            if _GROUP_STEP in values:
                held[id(parameter)]["step"] = values[_GROUP_STEP].clone()
            optimiser.state[parameter] = {
                key: _placed(value, parameter, held[id(parameter)]) if isinstance(value, Tensor) else value
                for key, value in values.items()
                if key != _GROUP_STEP
            }


def share_state(state: OptimiserState, module: nn.Module) -> OptimiserState:
    """The part of a whole state that belongs to this process's share of the parameters of `module`."""
    parameters = dict(module.named_parameters())
    return {
        name: {
            key: part_like(value, parameters[name]) if isinstance(value, Tensor) and name in parameters else value
            for key, value in values.items()
        }
        for name, values in state.items()
    }


def whole_states(state: OptimiserState, *, keep: bool) -> OptimiserState:
    """A state with whole tensors; see `sharded.whole_state`. Collective."""
    found = {name: whole_state(values, keep=keep) for name, values in state.items()}
    return found if keep else {}


def _placed(value: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A copy beside the parameter; counters (no dimensions) stay on the CPU, unless the optimiser is a fused one.

    It lies in memory as the parameter does: fused optimisers go through both as they lie, and a file keeps row order.
    """
    if value.dim() == 0 and not group.get("fused"):
        return value.clone()
    if value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
