"""Losses of similarities, their penalties and limits against closed forms, and which negatives are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.losses import info_nce
from counterpoint.losses.temperature_behaviour import (
    candidate_probability,
    contrastive_loss,
    hardest,
    kept_count,
    large_temperature_limit,
    penalty_entropy,
    relative_penalty,
    similarities,
    similarity_gradients,
    simple_loss,
    small_temperature_limit,
)

SWEEP = (0.07, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def _drawn(anchors: int = 5, negatives: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    positive, negative = rng.uniform(-1, 1, anchors), rng.uniform(-1, 1, (anchors, negatives))
    return torch.from_numpy(positive), torch.from_numpy(negative)


def _rows(count: int, seed: int) -> Tensor:
    return normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6))), dim=1)


@pytest.mark.parametrize("temperature", [0.01, *SWEEP])
def test_gradients_are_those_of_the_loss(temperature: float) -> None:
    """With respect to similarities: the closed form, finite differences, and a row that adds up to zero."""
    positive, negative = (values.requires_grad_() for values in _drawn())
    loss = contrastive_loss(positive, negative, temperature=temperature).sum()
    automatic = torch.autograd.grad(loss, (positive, negative))
    closed = similarity_gradients(positive.detach(), negative.detach(), temperature=temperature)
    for one, other in zip(automatic, closed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(-closed[0], closed[1].sum(dim=1))
    step, moved = 1e-5, negative.detach().clone()
    moved[2, 3] += step
    positive = positive.detach()
    above = contrastive_loss(positive, moved, temperature=temperature)[2]
    moved[2, 3] -= 2 * step
    slope = (above - contrastive_loss(positive, moved, temperature=temperature)[2]) / (2 * step)
    assert abs(float(slope) - float(closed[1][2, 3])) < 1e-4 * max(1.0, float(closed[1][2, 3]))


def test_relative_penalty_leaves_the_positive_out() -> None:
    positive, negative = _drawn()
    share = relative_penalty(negative, temperature=0.3)
    of_positive, of_negative = similarity_gradients(positive, negative, temperature=0.3)
    torch.testing.assert_close(share, of_negative / -of_positive[:, None])
    torch.testing.assert_close(share.sum(dim=1), torch.ones(5, dtype=torch.float64))
    probability = candidate_probability(positive, negative, temperature=0.3)
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(5, dtype=torch.float64))
    assert bool((probability[:, 1:] < share).all())


def test_entropy_of_the_penalties_grows_with_temperature() -> None:
    _, negative = _drawn()
    found = torch.stack([penalty_entropy(negative, temperature=t) for t in (0.001, *SWEEP, 1e4)])  # (T, N)
    assert bool((found.diff(dim=0) > 0).all())
    torch.testing.assert_close(found[-1], torch.full((5,), math.log(9), dtype=torch.float64), rtol=1e-6, atol=0)
    assert float(found[0].max()) < 1e-2
    alike = torch.zeros(1, 9)
    assert float(penalty_entropy(alike, temperature=0.07)) == pytest.approx(math.log(9))


def test_limits_of_the_temperature() -> None:
    positive, negative = _drawn()
    for temperature, limit in ((1e-3, small_temperature_limit), (1e3, large_temperature_limit)):
        loss = contrastive_loss(positive, negative, temperature=temperature)
        error = (loss - limit(positive, negative, temperature=temperature)).abs().max()
        assert float(error) <= 1e-6 * float(loss.max()), temperature
    assert float(small_temperature_limit(positive, negative, temperature=1.0).min()) >= 0
    # The simple loss with one over the negatives has the direction of the gradient of that limit.
    leaves = [values.requires_grad_() for values in (positive, negative)]
    limit = torch.autograd.grad(contrastive_loss(*leaves, temperature=1e6).sum(), leaves)
    simple = torch.autograd.grad(simple_loss(*leaves).sum(), leaves)
    torch.testing.assert_close(limit[1] / limit[0].mean(), simple[1] / simple[0].mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("temperature", [1e-4, 0.01])
def test_no_temperature_overflows(temperature: float) -> None:
    positive, negative = (values.float().requires_grad_() for values in _drawn())
    loss = contrastive_loss(positive, negative, temperature=temperature)
    loss.sum().backward()
    for values in (loss, positive.grad, negative.grad, penalty_entropy(negative, temperature=temperature)):
        assert values is not None and bool(torch.isfinite(values).all())


@pytest.mark.parametrize(
    ("negatives", "alpha", "expected"),
    [(12, 0.25, 3), (9, 0.5, 5), (5, 0.01, 1), (255, 0.1, 26), (4, 1.0, 4), (0, 0.5, 0)],
)
def test_how_many_are_kept(negatives: int, alpha: float, expected: int) -> None:
    assert kept_count(negatives, alpha) == expected


def test_the_interval_is_each_anchors_own_and_keeps_ties() -> None:
    negative = torch.tensor([[0.9, 0.1, 0.5, 0.5], [0.0, 0.2, -0.1, -0.3]])
    threshold, kept = hardest(negative, alpha=0.5)
    assert threshold.tolist() == pytest.approx([0.5, 0.0])
    assert kept.tolist() == [[True, False, True, True], [True, True, False, False]]


def test_dropped_negatives_get_no_gradient_and_the_threshold_is_a_constant() -> None:
    positive, negative = (values.requires_grad_() for values in _drawn())
    threshold, kept = hardest(negative, alpha=0.3)
    assert not threshold.requires_grad
    contrastive_loss(positive, negative, temperature=0.3, kept=kept).sum().backward()
    assert negative.grad is not None
    assert bool((negative.grad[~kept] == 0).all()) and bool((negative.grad[kept] > 0).all())
    expected = similarity_gradients(positive[:1].detach(), negative[:1][kept[:1]][None].detach(), temperature=0.3)
    torch.testing.assert_close(negative.grad[:1][kept[:1]], expected[1][0])


def test_keeping_all_negatives_is_the_ordinary_loss() -> None:
    """And the ordinary loss is `info_nce`, which the system takes for its linear memory."""
    first, second, queue = _rows(6, 1), _rows(6, 2), _rows(5, 3)
    positive, negative = similarities(first, second, queue)
    assert negative.shape == (6, 10)
    plain = contrastive_loss(positive, negative, temperature=0.2)
    kept = hardest(negative, alpha=1.0)[1]
    torch.testing.assert_close(contrastive_loss(positive, negative, temperature=0.2, kept=kept), plain)
    torch.testing.assert_close(info_nce(first, second, negatives=queue, temperature=0.2), plain.mean())


def test_similarities_keep_their_precision_under_autocast() -> None:
    first, second = _rows(6, 1).float(), _rows(6, 2).float()
    expected = similarities(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = similarities(first, second)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(*_drawn(), temperature=-1.0)
