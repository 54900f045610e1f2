"""Stops a run before a step that is not finite, and says where it began."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.distributed import gather_objects, reduce_sum
from counterpoint.sharded import is_shared, local
from counterpoint.training.results import StepResult

__all__ = ["NonFiniteError", "clip_gradients", "explain", "gradient_norm"]

_MOST_IDS = 8


class NonFiniteError(ArithmeticError):
    """Loss or gradient is NaN or infinite; the weights are those of the step before."""


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """2-norm of all gradients together, a scalar on their device; 0 when there are none.

    Collective where gradients are shared out: those count with the shares of all processes.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    shares = [local(gradient) for gradient in gradients if is_shared(gradient)]
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients if not is_shared(gradient)])
    if not shares:
        return norm
    squared = reduce_sum(torch.nn.utils.get_total_norm(shares).double().square())
    return (squared + norm.to(squared).square()).sqrt()


def clip_gradients(parameters: Iterable[Tensor], norm: float, limit: float | None) -> None:
    """Scale all gradients down to a norm of `limit`, if theirs is a finite and larger one."""
    if limit is not None and math.isfinite(norm) and norm > limit:
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))


def explain(step: int, batches: Sequence[Mapping[str, Any]], result: StepResult, module: nn.Module, kept: str) -> str:
    """One line for all processes: step, first bad tensor, the rows it came from. Collective.

    Looked at in the order of the computation: inputs, weights, features, loss terms, gradients.

    Args:
        step: number of the step that is not taken, from 1.
        batches: of this process.
        result: of the step.
        module: whose weights and gradients are looked at.
        kept: what is left, e.g. where the last checkpoint lies.
    """
    findings = [found for found in gather_objects(_first_bad(batches, result, module)) if found]
    place, what, ids = min(findings) if findings else (9, "the loss", [])
    ids = sorted({name for found in findings if found[:2] == (place, what) for name in found[2]})
    rows = f" (rows {', '.join(ids[:_MOST_IDS])}{' ...' if len(ids) > _MOST_IDS else ''})" if ids else ""
    loss = float(result.loss)
    return (
        f"step {step}: {what} is not finite{rows}; the loss is {loss:g}. The weights were not changed; {kept}. "
        f"{_REMEDIES[place]}"
    )


_REMEDIES = {
    0: "Remove or repair these rows",
    1: "A weight was already bad before this step: start from an earlier checkpoint with a lower learning rate",
    2: "The encoder overflowed: lower the learning rate, set clip_gradient=1, or use bf16-mixed instead of 16-mixed",
    3: "Check the temperature, lower the learning rate, or set clip_gradient=1",
    4: "Lower the learning rate, or set clip_gradient=1",
    9: "Lower the learning rate",
}


def _first_bad(
    batches: Sequence[Mapping[str, Any]], result: StepResult, module: nn.Module
) -> tuple[int, str, list[str]] | None:
    """(place in the computation, name, row ids) of the first tensor of this process that is not finite."""
    ids = [name for batch in batches for name in batch.get("_ids", [])]
    for batch in batches:
        for name, value in _tensors(batch, ""):
            if not _finite(value):
                return 0, f"input {name}", _bad_rows(value, batch.get("_ids", []))
    for name, parameter in module.named_parameters():
        if not _finite(local(parameter)):
            return 1, f"weight {name}", []
    for name, value in result.local.items():
        if not _finite(value):
            return 2, f"feature {name}", _bad_rows(value, ids)
    for name, value in result.parts.items():
        if not _finite(value):
            return 3, f"loss term {name}", ids
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not _finite(local(parameter.grad)):
            return 4, f"gradient of {name}", ids
    return None


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _bad_rows(value: Tensor, ids: Sequence[str]) -> list[str]:
    """Ids of the rows of `value` (B, ...) that hold something that is not finite."""
    if value.dim() == 0 or len(value) != len(ids):
        return list(ids)
    bad = ~torch.isfinite(value).reshape(len(value), -1).all(dim=1)
    return [ids[index] for index in bad.nonzero().flatten().tolist()]


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _tensors(item, f"{name}[{number}]")
