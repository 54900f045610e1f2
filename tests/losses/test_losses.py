"""Every public loss: against loops, finite differences, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from loss_case import Case, all_cases, convert, random_arguments, with_gradient

import counterpoint.losses
from counterpoint.losses import tiles

CASES = all_cases()
LINEAR = [case for case in CASES if case.linear and case.rows]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_public_loss_has_a_case() -> None:
    assert {case.function for case in CASES} == set(counterpoint.losses.__all__)
    assert len({case.name for case in CASES}) == len(CASES)


@every_case
def test_equals_loops_over_the_equation(case: Case) -> None:
    for seed in range(200):
        arguments = random_arguments(case, seed)
        ours, theirs = float(case.call(**arguments)), case.oracle(**arguments)
        # 1e-9 as it stands up to a loss of 1; above, the spacing of numbers at temperature 0.01 counts.
        assert abs(ours - theirs) <= 1e-9 * max(1.0, abs(theirs)), f"seed {seed}: {ours} is not {theirs}"


@every_case
def test_gradient_equals_finite_differences(case: Case) -> None:
    if not case.learnt:
        arguments = random_arguments(case, 0)
        leaf = arguments["scores"].requires_grad_()
        assert not case.call(**{**arguments, "scores": leaf}).requires_grad
        return
    for seed in range(3):
        arguments = random_arguments(case, seed, rows=4, width=3)
        if case.sharpness:
            name, sharp = case.sharpness
            arguments[name] = torch.tensor(0.7 if sharp < 1 else 1.5, dtype=torch.float64)
        leaves = [arguments[name].clone().requires_grad_() for name in case.learnt]

        def value(*leaves, arguments=arguments):
            return case.call(**{**arguments, **dict(zip(case.learnt, leaves, strict=True))})

        assert torch.autograd.gradcheck(value, leaves)


@every_case
@pytest.mark.parametrize("sharp", [False, True])
def test_tiles_change_nothing(case: Case, sharp: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = random_arguments(case, 1, rows=9, width=5)
    if sharp and case.sharpness:
        arguments[case.sharpness[0]] = torch.tensor(case.sharpness[1], dtype=torch.float64)
    whole, whole_gradient = with_gradient(case, arguments)
    for size in (1, 2, 4):
        monkeypatch.setattr(tiles, "TILE", size)
        monkeypatch.setattr(tiles, "STRIP", 3 * size)  # strips of several rows, the last one shorter
        monkeypatch.setattr(tiles, "TILE_TOKENS", 12 * size)
        value, gradient = with_gradient(case, arguments)
        torch.testing.assert_close(value, whole, rtol=1e-12, atol=1e-12)
        for name, expected in whole_gradient.items():
            torch.testing.assert_close(gradient[name], expected, rtol=1e-9, atol=1e-10)


@every_case
def test_order_of_the_batch_does_not_matter(case: Case) -> None:
    if not case.rows:
        pytest.skip("row numbers are among the arguments")
    if case.name == "late_interaction_similarity":
        pytest.skip("returns the matrix, not a loss")
    for seed in range(200):
        arguments = random_arguments(case, seed)
        count = len(arguments[case.rows[0]])
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        shuffled = {**arguments, **{name: arguments[name][order] for name in case.rows}}
        torch.testing.assert_close(case.call(**shuffled), case.call(**arguments), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in CASES if case.swapped], ids=str)
def test_symmetric_losses_may_swap_sides(case: Case) -> None:
    assert case.swapped is not None
    first, second = case.swapped
    for seed in range(200):
        arguments = random_arguments(case, seed)
        swapped = {**arguments, first: arguments[second], second: arguments[first]}
        torch.testing.assert_close(case.call(**swapped), case.call(**arguments), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", [case for case in CASES if case.turned], ids=str)
def test_rotating_all_embeddings_changes_nothing(case: Case) -> None:
    for seed in range(200):
        arguments = random_arguments(case, seed)
        width = arguments[case.turned[0]].shape[-1]
        generator = torch.Generator().manual_seed(seed)
        turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
        turned = {**arguments, **{name: arguments[name] @ turn for name in case.turned}}
        torch.testing.assert_close(case.call(**turned), case.call(**arguments), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.guess], ids=str)
def test_collapsed_rows_give_the_guess_level(case: Case) -> None:
    assert case.guess is not None
    for seed in range(200):
        arguments = random_arguments(case, seed)
        for name in case.features(arguments):
            arguments[name] = torch.zeros_like(arguments[name])
            arguments[name][..., 0] = 1.0  # the same unit vector everywhere
        assert float(case.call(**arguments)) == pytest.approx(case.guess(arguments), rel=1e-10)


@every_case
def test_is_never_negative(case: Case) -> None:
    if case.name == "late_interaction_similarity":
        pytest.skip("returns the matrix, not a loss")
    for seed in range(200):
        # A mean log-probability, unlike that of one positive, is a difference of two numbers: rounding is left.
        assert float(case.call(**random_arguments(case, seed))) >= -1e-12


def test_a_duplicated_negative_counts_as_weight_two() -> None:
    for seed in range(200):
        case = next(case for case in CASES if case.name == "info_nce_queue")
        arguments = random_arguments(case, seed)
        bank = arguments["negatives"]
        twice = {**arguments, "negatives": torch.cat([bank, bank[:1]])}
        weights = torch.zeros(len(bank), dtype=torch.float64)
        weights[0] = math.log(2.0)
        weighted = {**arguments, "negative_bias": weights}
        torch.testing.assert_close(case.call(**twice), case.call(**weighted), rtol=1e-10, atol=1e-11)


@every_case
def test_autocast_changes_nothing(case: Case) -> None:
    arguments = convert(random_arguments(case, 3, rows=8, width=16), torch.float32)
    plain, plain_gradient = with_gradient(case, arguments)
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in case.learnt}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = case.call(**{**arguments, **leaves})
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast.detach(), plain, rtol=1e-6, atol=1e-6)
    if leaves:
        cast.backward()
    for name, gradient in plain_gradient.items():
        torch.testing.assert_close(leaves[name].grad, gradient, rtol=1e-5, atol=1e-6)


@every_case
def test_second_derivatives_are_refused(case: Case) -> None:
    if not case.learnt or not case.tiled:
        pytest.skip("no gradient, or an ordinary differentiable expression")
    arguments = random_arguments(case, 0, rows=4, width=3)
    leaf = arguments[case.learnt[0]].requires_grad_()
    value = case.call(**{**arguments, case.learnt[0]: leaf})
    with pytest.raises(RuntimeError, match="no second derivative.*without create_graph=True"):
        torch.autograd.grad(value, leaf, create_graph=True)


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.untyped_storage().nbytes() // value.element_size())
        return result


def _largest_tensor(case: Case, rows: int) -> int:
    arguments = convert(random_arguments(case, 0, rows=rows, width=8), torch.float32)
    with _Largest() as largest:
        with_gradient(case, arguments)
    return largest.numel


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_memory_is_linear_in_the_batch(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 32)
    small, large = (_largest_tensor(case, rows) for rows in (256, 512))
    assert large <= 2.1 * small
    assert large < 512 * 512 / 8


def test_late_interaction_never_holds_all_token_similarities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE_TOKENS", 1024)
    case = next(case for case in CASES if case.name == "late_interaction")
    small, large = (_largest_tensor(case, rows) for rows in (32, 64))
    assert large <= 4.1 * small  # the two (N, N) results
    assert large <= 64 * 64 * 3 * 4 / 10
