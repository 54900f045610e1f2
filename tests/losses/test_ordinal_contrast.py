"""Ordinal contrast against the paper written as loops, and what is special about its mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.losses import supervised_contrastive, supremix_loss
from counterpoint.losses.ordinal_contrast import Candidates, mixtures, ordinal_contrast

WEIGHTS: dict[str, Callable[[float], float]] = {
    "l1_inv": lambda d: abs(d) + 1,
    "l2_inv": lambda d: d * d + 1,
    "l1": lambda d: 1 / (abs(d) + 1),
    "l2": lambda d: 1 / (d * d + 1),
    "none": lambda d: 1.0,
}
TARGETS = [3.0, 5.0, 4.0, 9.5, 5.0]


def _case(targets: list[float], seed: int = 0, dim: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    views = normalize(torch.randn(2, len(targets), dim, dtype=torch.float64, generator=generator), dim=2)
    size = 2 * len(targets)
    coefficients = torch.rand(size, size, dtype=torch.float64, generator=generator)
    return views[0], views[1], torch.tensor(targets, dtype=torch.float64), coefficients


def _slow(
    first: Tensor, second: Tensor, targets: Tensor, a: Tensor | None, window: float | None, tau: float, weighting: str
) -> Tensor:
    """The sheet's D_i and L_i with every mixed vector built; mixtures are detached."""
    z, t = torch.cat([first, second]), [*targets.tolist(), *targets.tolist()]
    fixed, weight, total = z.detach(), WEIGHTS[weighting], 0.0
    for i in range(len(z)):
        terms, positives = [], []
        for o in range(len(z)):
            if o == i:
                continue
            s = z[i] @ z[o] / tau
            terms.append(weight(t[i] - t[o]) * s.exp())
            positives += [s] if t[o] == t[i] else []
            if a is not None and t[o] != t[i]:
                mixed = a[i, o] * fixed[i] + (1 - a[i, o]) * fixed[o]
                label = float(a[i, o]) * t[i] + (1 - float(a[i, o])) * t[o]
                terms.append(weight(t[i] - label) * (z[i] @ mixed / tau).exp())
        for j in range(len(z)) if window is not None else ():
            for k in range(len(z)):
                if 0 < t[i] - t[j] < window and 0 < t[k] - t[i] < window:
                    b = (t[k] - t[i]) / (t[k] - t[j])
                    s = z[i] @ (b * fixed[j] + (1 - b) * fixed[k]) / tau
                    terms.append(s.exp())
                    positives.append(s)
        total = total - sum(s - sum(terms).log() for s in positives) / len(positives)
    return total / len(z)


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize(("negatives", "window"), [(True, 2.5), (True, None), (False, 5.0), (False, None)])
def test_value_and_gradient_are_those_of_the_loops(weighting: Any, negatives: bool, window: float | None) -> None:
    first, second, targets, drawn = _case(TARGETS)
    coefficients = drawn if negatives else None
    gradients = []
    for loss in (
        lambda x, y: supremix_loss(
            x, y, targets, coefficients=coefficients, window=window, temperature=0.3, weighting=weighting
        ),
        lambda x, y: _slow(x, y, targets, coefficients, window, 0.3, weighting),
    ):
        x, y = first.clone().requires_grad_(), second.clone().requires_grad_()
        value = loss(x, y)
        gradients.append([value.detach(), *torch.autograd.grad(value, (x, y))])
    for ours, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-11, atol=1e-12)


def test_without_mixtures_and_weights_it_is_supcon_on_equal_targets() -> None:
    first, second, targets, _ = _case(TARGETS)
    ours = supremix_loss(first, second, targets, temperature=0.2, weighting="none")
    classes = torch.tensor([0, 1, 2, 3, 1]).repeat(2)
    torch.testing.assert_close(ours, supervised_contrastive(torch.cat([first, second]), classes, temperature=0.2))


def test_the_coefficient_multiplies_the_anchor() -> None:
    _, _, targets, _ = _case([1.0, 2.0])
    coefficients = torch.arange(16, dtype=torch.float64).reshape(4, 4) / 16
    found = mixtures(targets.repeat(2), coefficients=coefficients)
    assert (found.first == found.anchor).all()
    assert found.share.tolist() == [float(coefficients[i, k]) for i, k in zip(found.anchor, found.second, strict=True)]
    assert sorted(zip(found.anchor.tolist(), found.second.tolist(), strict=True)) == [
        (i, k) for i in range(4) for k in range(4) if i % 2 != k % 2
    ], "all rows of another target, the other views too, and no others"


def test_hard_positives_have_the_anchors_target_and_lie_within_the_open_window() -> None:
    targets = torch.tensor([0.0, 2.0, 3.0, 5.0, 8.0, 3.0], dtype=torch.float64)
    found = mixtures(targets, window=3.0)
    expected = {
        (i, j, k)
        for i in range(6)
        for j in range(6)
        for k in range(6)
        if 0 < targets[i] - targets[j] < 3 and 0 < targets[k] - targets[i] < 3
    }
    listed = list(zip(found.anchor.tolist(), found.first.tolist(), found.second.tolist(), strict=True))
    assert len(listed) == len(set(listed)) and set(listed) == expected and expected
    mixed = found.share * targets[found.first] + (1 - found.share) * targets[found.second]
    torch.testing.assert_close(mixed, targets[found.anchor])
    assert ((found.share > 0) & (found.share < 1)).all()


def test_a_window_without_neighbours_has_no_hard_positives() -> None:
    first, second, targets, _ = _case([0.0, 10.0, 20.0])
    assert len(mixtures(targets, window=5.0).anchor) == 0
    alone = supremix_loss(first, second, targets, temperature=0.5)
    torch.testing.assert_close(supremix_loss(first, second, targets, window=5.0, temperature=0.5), alone)


def test_rows_that_are_only_mixed_get_no_gradient() -> None:
    """Mixtures are constants: they pull their anchor alone, and rows of another target only through real pairs."""
    first, second, targets, _ = _case([1.0, 2.0, 3.0])
    x = first.clone().requires_grad_()
    found = mixtures(targets.repeat(2), window=1.5)
    assert set(found.anchor.tolist()) == {1, 4}, "only the middle target has neighbours on both sides"
    z = torch.cat([x, second])
    share, constant = found.share, z @ z.detach().T
    mixed = share * constant[found.anchor, found.first] + (1 - share) * constant[found.anchor, found.second]
    (gradient,) = torch.autograd.grad(mixed.sum(), x)
    assert float(gradient[[0, 2]].abs().max()) == 0.0 and float(gradient[1].abs().max()) > 0


def test_one_softmax_takes_one_maximum_not_two() -> None:
    """Adding a constant to all logits changes nothing; to one block alone (the released code) it does."""
    logits = torch.randn(4, 4, dtype=torch.float64)
    targets = torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=torch.float64)
    anchor = torch.tensor([0, 1, 1])
    mixed = torch.randn(3, dtype=torch.float64)

    def loss(real: float, other: float) -> float:
        candidates = Candidates(
            anchor, mixed + other, torch.tensor([0.5, 0.0, 1.0]), torch.tensor([False, True, False])
        )
        return float(ordinal_contrast(logits + real, targets, candidates=candidates))

    assert math.isclose(loss(0, 0), loss(300, 300), rel_tol=1e-12)
    assert abs(loss(0, 0) - loss(0, 2)) > 0.01


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1.0, 100.0])
def test_any_temperature_is_finite_in_single_precision(temperature: float) -> None:
    first, second, targets, coefficients = _case(TARGETS)
    exact = supremix_loss(first, second, targets, coefficients=coefficients, window=5, temperature=temperature)
    x = first.float().requires_grad_()
    loss = supremix_loss(
        x, second.float(), targets.float(), coefficients=coefficients, window=5, temperature=temperature
    )
    loss.backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-4)


def test_nothing_as_large_as_all_triples_times_the_width_is_kept() -> None:
    """The released code holds (2B)^3 vectors. Here: the pairs, and the triples that exist, as numbers."""
    first, second, _, coefficients = _case([float(i) for i in range(40)], dim=32)
    targets = torch.arange(40, dtype=torch.float64)
    triples = len(mixtures(targets.repeat(2), coefficients=coefficients, window=3).anchor)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        supremix_loss(
            first.requires_grad_(), second, targets, coefficients=coefficients, window=3, temperature=0.5
        ).backward()
    assert max(sizes) <= max(80**2, triples) < 80**3 / 10


def test_errors_name_the_argument() -> None:
    first, second, targets, coefficients = _case(TARGETS)
    with pytest.raises(ValueError, match=r"targets must be \(5,\), one a row, got \(3,\)"):
        supremix_loss(first, second, targets[:3], temperature=0.5)
    with pytest.raises(ValueError, match=r"coefficients must be \(10, 10\), got \(5, 10\)"):
        supremix_loss(first, second, targets, coefficients=coefficients[:5], temperature=0.5)
    with pytest.raises(ValueError, match="targets must be finite"):
        supremix_loss(first, second, targets / 0, temperature=0.5)
    with pytest.raises(ValueError, match="temperature must be positive"):
        supremix_loss(first, second, targets, temperature=0.0)
    with pytest.raises(ValueError, match="first must be finite, but row 1"):
        supremix_loss(first.index_fill(0, torch.tensor(1), math.nan), second, targets, temperature=0.5)
    with pytest.raises(ValueError, match="some value twice"):
        ordinal_contrast(torch.zeros(3, 3), torch.tensor([1.0, 2.0, 3.0]))
