"""Every loss on 2 and 3 processes, with different and unequal rows on each, against one process that holds all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_case import Arguments, Case, all_cases, convert, find_case, random_arguments
from torch import Tensor

from counterpoint import distributed
from processes import run_on_processes

SHARED = [case for case in all_cases() if case.rows]
WIDTH = 6
SPLITS = {2: (5, 3), 3: (2, 5, 1)}
BARS = {torch.float64: 1e-10, torch.float32: 1e-5}


def _problem(case: Case, rows: int, dtype: torch.dtype) -> tuple[Arguments, Tensor]:
    """Inputs of a shared encoder in the place of each embedding, and that encoder's weight."""
    arguments = convert(random_arguments(case, 11, rows=rows, width=WIDTH), dtype)
    if case.sharpness:
        arguments[case.sharpness[0]] = torch.tensor(0.3 if case.sharpness[1] < 1 else 3.0, dtype=dtype)
    width = arguments[case.rows[0]].shape[-1]
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    return arguments, (torch.eye(width, dtype=torch.float64) + 0.2 * weight).to(dtype)


def _loss_and_gradients(case: Case, call: Any, arguments: Arguments, weight: Tensor) -> dict[str, Tensor]:
    """Encode the learnt rows, take the loss, average gradients; the temperature is a parameter as well."""
    encoder = torch.nn.Parameter(weight)
    parameters = {"encoder": encoder}
    arguments = dict(arguments)
    for name in case.learnt:
        if name in case.rows:
            arguments[name] = arguments[name] @ encoder
        elif arguments[name].dim() == 0:
            parameters[name] = arguments[name] = torch.nn.Parameter(arguments[name])
    value = call(**arguments)
    if case.learnt:
        value.backward()
        distributed.average_gradients(parameters.values())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return {"loss": value.detach(), **gradients}


def _on_one_of_many(name: str, split: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    case, index = find_case(name), distributed.process_index()
    arguments, weight = _problem(case, sum(split), dtype)
    own = slice(sum(split[:index]), sum(split[: index + 1]))
    arguments.update({row: arguments[row][own] for row in case.rows})
    # functools.partial objects carry a signature, so every case can be wrapped by the names of its rows.
    call = distributed.across_processes(case.call, rows=case.rows)
    return _loss_and_gradients(case, call, arguments, weight)


@pytest.mark.parametrize("world_size", SPLITS)
@pytest.mark.parametrize("dtype", BARS, ids=str)
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_gradient_equals_one_process(case: Case, dtype: torch.dtype, world_size: int) -> None:
    split = SPLITS[world_size]
    arguments, weight = _problem(case, sum(split), dtype)
    expected = _loss_and_gradients(case, case.call, arguments, weight)
    answers = run_on_processes(_on_one_of_many, world_size, case.name, split, dtype)
    for answer in answers:
        assert answer.keys() == expected.keys()
        for name, value in expected.items():
            if not bool(value.any()):  # the bias of a softmax
                assert not bool(answer[name].any()), name
                continue
            error = (answer[name] - value).norm() / value.norm()
            assert error <= BARS[dtype], f"{name}: relative error {error:.1e}"
            scale = (answer[name] * value).sum() / value.square().sum()
            assert abs(scale - 1) <= 1e-6, f"{name}: scaled by {scale}"
