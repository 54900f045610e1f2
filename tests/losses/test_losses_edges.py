"""Edge inputs: every answer is a finite number or an error that names the argument and the remedy."""

from __future__ import annotations

import math

import pytest
import torch
from loss_case import Arguments, Case, all_cases, convert, random_arguments, with_gradient

CASES = all_cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)
ROWS_TO_SPOIL = [case for case in CASES if case.rows]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _batch_of_one(case: Case) -> Arguments:
    return random_arguments(case, 0, rows=1, width=16)


def _zero_row(case: Case) -> Arguments:
    arguments = random_arguments(case, 0, rows=8, width=16)
    for name in _embeddings(case, arguments):
        arguments[name][0] = 0.0
    return arguments


def _identical_rows(case: Case) -> Arguments:
    arguments = random_arguments(case, 0, rows=8, width=16)
    for name in _embeddings(case, arguments):
        arguments[name] = arguments[name][:1].expand_as(arguments[name]).contiguous()
    return arguments


def _sharp(case: Case) -> Arguments:
    arguments = random_arguments(case, 0, rows=8, width=16)
    if case.sharpness:
        arguments[case.sharpness[0]] = torch.tensor(case.sharpness[1], dtype=torch.float64)
    return arguments


def _sharp_and_aligned(case: Case) -> Arguments:
    arguments = _sharp(case)
    if case.swapped:
        arguments[case.swapped[1]] = arguments[case.swapped[0]].clone()
    return arguments


def _large_values(case: Case) -> Arguments:
    arguments = _sharp(case)
    for name in _embeddings(case, arguments):
        if name != "codes":
            arguments[name] = arguments[name] * 30_000.0
    return arguments


def _embeddings(case: Case, arguments: Arguments) -> list[str]:
    names = case.rows or case.learnt
    return [name for name in names if arguments[name].dim() > 1 and arguments[name].is_floating_point()]


EDGES = [_batch_of_one, _zero_row, _identical_rows, _sharp, _sharp_and_aligned, _large_values]


@every_case
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.__name__.strip("_"))
def test_edge_inputs_give_finite_values_and_gradients(case: Case, dtype: str, edge) -> None:
    if edge is _batch_of_one and case.least > 1:
        with pytest.raises(ValueError, match="labels"):
            case.call(**convert(edge(case), DTYPES[dtype]))
        return
    arguments = convert(edge(case), DTYPES[dtype])
    value, gradients = with_gradient(case, arguments)
    assert value.dtype == torch.float32
    assert math.isfinite(float(value))
    for name, gradient in gradients.items():
        if edge is not _large_values:  # there the true gradient may be beyond half precision
            assert bool(torch.isfinite(gradient).all()), name
    # Half precision is accumulated in float32: the value is that of the same numbers in float32.
    single = case.call(**{k: v.float() if v.is_floating_point() else v for k, v in arguments.items()})
    torch.testing.assert_close(value, single.detach(), rtol=1e-5, atol=1e-6)


@every_case
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_within_two_percent(case: Case, dtype: str) -> None:
    arguments = random_arguments(case, 5, rows=8, width=16)
    if case.sharpness:
        arguments[case.sharpness[0]] = torch.tensor(0.1 if case.sharpness[1] < 1 else 10.0).double()
    half = float(case.call(**convert(arguments, DTYPES[dtype])))
    assert half == pytest.approx(float(case.call(**arguments)), rel=0.02, abs=0.02)


@every_case
@pytest.mark.parametrize("level", [1e-30, 1e-6, 1e6])
def test_any_temperature_is_safe(case: Case, level: float) -> None:
    if not case.sharpness:
        pytest.skip("has no temperature")
    name, sharp = case.sharpness
    arguments = convert(random_arguments(case, 2, rows=8, width=16), torch.float32)
    arguments[name] = torch.tensor(level if sharp < 1 else 1 / level)
    value, _ = with_gradient(case, arguments)
    assert math.isfinite(float(value))
    exact = case.oracle(**{k: v.double() if v.is_floating_point() else v for k, v in arguments.items()})
    assert float(value) == pytest.approx(exact, rel=1e-4, abs=1e-5)


@every_case
@pytest.mark.parametrize("level", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_is_named(case: Case, level: float) -> None:
    if not case.sharpness:
        pytest.skip("has no temperature")
    name = case.sharpness[0]
    for value in (level, torch.tensor(level)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            case.call(**{**random_arguments(case, 0), name: value})


@pytest.mark.parametrize("case", ROWS_TO_SPOIL, ids=str)
def test_nan_names_argument_and_row(case: Case) -> None:
    for name in case.features(random_arguments(case, 0)):
        for bad in (math.nan, math.inf):
            arguments = random_arguments(case, 0, rows=8, width=16)
            arguments[name][2].view(-1)[0] = bad
            with pytest.raises(ValueError, match=f"{name} must be finite, but row 2 "):
                case.call(**arguments)


@pytest.mark.parametrize("case", ROWS_TO_SPOIL, ids=str)
def test_integers_are_named(case: Case) -> None:
    for name in case.features(random_arguments(case, 0)):
        arguments = random_arguments(case, 0, rows=8, width=16)
        arguments[name] = arguments[name].round().long()
        with pytest.raises(TypeError, match=f"{name} must be floating point, got torch.int64; convert"):
            case.call(**arguments)


@pytest.mark.parametrize("case", ROWS_TO_SPOIL, ids=str)
def test_other_numbers_of_rows_are_named(case: Case) -> None:
    if len(case.rows) < 2 or case.name == "siglip_loss_negative_only":
        pytest.skip("one set of rows, or rows that need not match")
    for short in case.rows[:2]:
        arguments = random_arguments(case, 0, rows=8, width=16)
        arguments[short] = arguments[short][:6]
        with pytest.raises(ValueError, match=r"8.*6|6.*8") as raised:
            case.call(**arguments)
        assert any(name in str(raised.value) for name in case.rows)


@pytest.mark.parametrize("case", ROWS_TO_SPOIL, ids=str)
def test_no_rows_and_wrong_dimensions_are_named(case: Case) -> None:
    for name in case.features(random_arguments(case, 0)):
        arguments = random_arguments(case, 0, rows=8, width=16)
        empty = {**arguments, **{other: arguments[other][:0] for other in case.rows}}
        flat = {**arguments, name: arguments[name].flatten()}
        for wrong in (empty, flat):
            with pytest.raises(ValueError, match=r"must have (shape|at least|the same)"):
                case.call(**wrong)
        with pytest.raises(TypeError, match=f"{name} must be a tensor, got list"):
            case.call(**{**arguments, name: [1.0, 2.0]})


@pytest.mark.parametrize("case", [case for case in CASES if len(case.turned) > 1], ids=str)
def test_other_widths_are_named(case: Case) -> None:
    arguments = random_arguments(case, 0, rows=8, width=16)
    name = case.turned[1]
    arguments[name] = arguments[name][..., :12]
    with pytest.raises(ValueError, match="must have the same last dimension") as raised:
        case.call(**arguments)
    assert name in str(raised.value)
    assert "12" in str(raised.value)
