"""Every loss on 2 and 3 processes, with different and unequal rows on each, against one process that holds all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_case import Arguments, Case, all_cases, convert, find_case, random_arguments
from torch import Tensor

from counterpoint import distributed
from counterpoint.losses import sharing
from counterpoint.losses.tiles import Similarity
from processes import run_on_processes

SHARED = [case for case in all_cases() if case.rows]
WIDTH = 6
SPLITS = {2: (5, 3), 3: (2, 5, 1)}
ON_THE_ENGINE = ("clip_loss", "siglip_loss", "nt_xent", "info_nce", "supervised_contrastive", "late_interaction")
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


def _sharing_the_tiles(name: str, split: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """As the trainer does it: leaves in the place of the gathered rows, tiles shared out, own gradients handed back."""
    case, index = find_case(name), distributed.process_index()
    arguments, weight = _problem(case, sum(split), dtype)
    own = slice(sum(split[:index]), sum(split[: index + 1]))
    encoder = torch.nn.Parameter(weight)
    parameters, local = {"encoder": encoder}, {}
    for row in case.rows:
        local[row] = arguments[row][own] @ encoder if row in case.learnt else arguments[row][own]
    with torch.no_grad():
        gathered = distributed.gather(local)
    for row, value in gathered.items():
        value.requires_grad_(local[row].requires_grad)
    rest = {key: value for key, value in arguments.items() if key not in case.rows}
    for key in case.learnt:
        if key in rest and rest[key].dim() == 0:
            parameters[key] = rest[key] = torch.nn.Parameter(rest[key])
    visited = 0

    class Counting(distributed.Members):
        def mine(self, tiles: Any) -> Any:
            nonlocal visited
            for tile in super().mine(tiles):
                visited += 1
                yield tile

    before, sharing.SHARED_FROM = sharing.SHARED_FROM, 1
    try:
        with sharing.using(Counting(torch.device("cpu"))):
            value = case.call(**gathered, **rest)
    finally:
        sharing.SHARED_FROM = before
    if case.learnt:
        value.backward()
        reached = {row: gathered[row].grad for row in local if gathered[row].grad is not None}
        found = distributed.own_gradients(reached, split[index])
        torch.autograd.backward([local[row] for row in found], list(found.values()))
        distributed.average_gradients(parameters.values())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return {"visited": visited, "loss": value.detach(), **gradients}


@pytest.mark.parametrize("world_size", SPLITS)
@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.name)
def test_sharing_the_tiles_changes_nothing(case: Case, world_size: int) -> None:
    split = SPLITS[world_size]
    arguments, weight = _problem(case, sum(split), torch.float64)
    alone = _loss_and_gradients(case, case.call, arguments, weight)
    answers = run_on_processes(_sharing_the_tiles, world_size, case.name, split, torch.float64)
    visited = [answer.pop("visited") for answer in answers]
    assert min(visited) > 0 or case.function not in ON_THE_ENGINE, visited
    for answer in answers:
        assert answer.keys() == alone.keys()
        for name, value in alone.items():
            assert torch.allclose(answer[name], value, rtol=1e-10, atol=1e-10), (name, answer[name], value)


def _visits() -> tuple[int, int]:
    """Tiles of a large matrix that this process visits, and all there are."""
    rows = torch.zeros(3000, 2)
    problem = Similarity(rows, rows, 1.0, None, None, party=distributed.Members(torch.device("cpu")))
    return len(list(problem.tiles())), len(list(problem._all_tiles()))


def test_every_process_visits_its_part() -> None:
    answers = run_on_processes(_visits, 3)
    assert sum(mine for mine, _ in answers) == answers[0][1]
    assert max(mine for mine, _ in answers) - min(mine for mine, _ in answers) <= 1


def _failing_on_one() -> str:
    def compute() -> tuple[Tensor, ...]:
        if distributed.process_index() == 1:
            raise RuntimeError("out of memory, here only")
        return (torch.ones(3),)

    try:
        distributed.Members(torch.device("cpu")).summed(compute)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def test_nobody_waits_for_a_process_that_failed() -> None:
    first, second = run_on_processes(_failing_on_one, 2)
    assert second == "out of memory, here only"
    assert first == "another process failed in a loss, perhaps out of memory"
