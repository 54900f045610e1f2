"""The tiled engine against the matrix it never holds, both ways of exponentiating, and at the ends of precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoint.losses import clip_loss, engine, info_nce, nt_xent, tiles
from counterpoint.losses.engine import logsumexp_similarity, logsumexp_within


def _rows(count: int, seed: int, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _dense(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    logits = scale * query @ key.T
    if bias is not None:
        logits = logits + bias
    if skip is None:
        return logits
    return logits.scatter(1, skip, float("-inf"))


SHAPES = [(1, 1), (1, 9), (9, 1), (7, 10), (10, 7), (8, 8)]


@pytest.mark.parametrize("size", [1, 3, 4, 64])
@pytest.mark.parametrize("scale", [0.5, 80.0, 400.0])  # one level for all, one not zero, none
@pytest.mark.parametrize("bias", [None, "columns", "pairs"])
@pytest.mark.parametrize("skips", [0, 1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_and_columns(shape, skips, bias, scale, size, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", size)
    monkeypatch.setattr(tiles, "STRIP", 3 * size)  # strips of several rows, the last one shorter
    rows, columns = shape
    query, key = _rows(rows, 1).requires_grad_(), _rows(columns, 2).requires_grad_()
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    leaves = [query, key, factor]
    weights = None
    if bias is not None:
        weights = _rows(rows, 3, columns) if bias == "pairs" else _rows(1, 3, columns)[0]
        leaves.append(weights.requires_grad_())
    skip = torch.randint(0, columns, (rows, skips), generator=torch.Generator().manual_seed(4)) if skips else None
    ours = logsumexp_similarity(query, key, scale=factor, bias=weights, skip=skip, columns=True)
    logits = _dense(query, key, factor, weights, skip)
    theirs = [logits.logsumexp(1), logits.logsumexp(0)]
    total = []
    for level, expected, seed in zip(ours, theirs, (5, 6), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-12, atol=1e-12)
        # An empty sum has no gradient; the dense formula answers NaN there.
        there = expected > float("-inf")
        weight = _rows(1, seed, len(level))[0]
        total.append(((level.masked_fill(~there, 0) * weight).sum(), (expected.masked_fill(~there, 0) * weight).sum()))
    mine = torch.autograd.grad(total[0][0] + total[1][0], leaves)
    reference = torch.autograd.grad(total[0][1] + total[1][1], leaves)
    for name, one, other in zip(("query", "key", "scale", "bias"), mine, reference, strict=False):
        assert bool(torch.isfinite(one).all())
        if bool(torch.isfinite(other).all()):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("size", [1, 3, 4, 64])
@pytest.mark.parametrize("scale", [0.5, 80.0, 400.0])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_rows_within(count: int, scale: float, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", size)
    monkeypatch.setattr(tiles, "STRIP", 3 * size)  # strips of several rows, the last one shorter
    rows = _rows(count, 1).requires_grad_()
    factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    skip = torch.arange(count)[:, None]
    ours = logsumexp_within(rows, scale=factor, skip=skip)
    theirs = _dense(rows, rows, factor, None, skip).logsumexp(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    if count > 1:
        weight = _rows(1, 2, count)[0]
        mine = torch.autograd.grad((ours * weight).sum(), (rows, factor))
        reference = torch.autograd.grad((theirs * weight).sum(), (rows, factor))
        for one, other in zip(mine, reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def _count_calls(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, int]:
    """How often functions of the engine run."""
    calls = dict.fromkeys(names, 0)

    def counting(name, function):
        def counted(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counted

    for name in names:
        owner = engine._Upstream if hasattr(engine._Upstream, name) else engine
        monkeypatch.setattr(owner, name, counting(name, getattr(owner, name)))
    return calls


WAYS = ("_sums_at_level", "_sums_above_peaks", "at_level", "below_sums")


@pytest.mark.parametrize(
    ("scale", "ways"),
    [(14.3, (1, 0, 1, 0)), (100.0, (1, 0, 1, 0)), (1000.0, (0, 1, 0, 1))],
)
def test_usual_scales_take_the_short_way(scale, ways, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random unit rows in float32: one exponential an entry at the scales CLIP trains with."""
    calls = _count_calls(monkeypatch, *WAYS)
    image, text = (torch.nn.functional.normalize(_rows(64, seed), dim=1).float() for seed in (0, 1))
    clip_loss(image.requires_grad_(), text, logit_scale=scale).backward()
    assert tuple(calls.values()) == ways


def test_a_row_far_below_the_others_takes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image opposite to every text at scale 100: its sum is e^-200 of the others'."""
    calls = _count_calls(monkeypatch, *WAYS)
    text = torch.nn.functional.normalize(torch.eye(6)[:1] + 0.02 * _rows(8, 0).float(), dim=1)
    image = text.clone()
    image[3] *= -1
    ours = clip_loss(image.requires_grad_(), text, logit_scale=100.0)
    (gradient,) = torch.autograd.grad(ours, image)
    assert tuple(calls.values()) == (1, 1, 0, 1)
    exact = image.detach().double().requires_grad_()
    logits, own = 100.0 * exact @ text.double().T, torch.arange(8)
    entropy = torch.nn.functional.cross_entropy
    theirs = (entropy(logits, own) + entropy(logits.T, own)) / 2
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    (expected,) = torch.autograd.grad(theirs, exact)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-4


def test_only_the_gradients_that_are_asked_for() -> None:
    query, key = _rows(4, 0), _rows(5, 1)
    scale = torch.tensor(2.0, dtype=torch.float64)
    for leaf in (query, key, scale):
        leaf.requires_grad_()
        row, _ = logsumexp_similarity(query, key, scale=scale)
        (gradient,) = torch.autograd.grad(row.sum(), leaf)
        (expected,) = torch.autograd.grad((scale * query @ key.T).logsumexp(1).sum(), leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)
        leaf.requires_grad_(False)


def test_backward_may_run_twice() -> None:
    first, second = _rows(5, 0).requires_grad_(), _rows(5, 1)
    loss = nt_xent(first, second, temperature=0.3)
    (once,) = torch.autograd.grad(loss, first, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, first)
    assert torch.equal(once, twice)


def test_a_loss_far_below_rounding_of_its_logits_is_kept() -> None:
    """Well separated pairs at a sharp temperature: logits of 100, loss of about e^-60."""
    rows = torch.nn.functional.normalize(torch.eye(4) + 0.3, dim=1)
    cosine = float(rows[0] @ rows[1])
    expected = 3 * math.exp(-100 * (1 - cosine))
    for value in (
        clip_loss(rows, rows, logit_scale=100.0),
        info_nce(rows, rows, temperature=0.01),
    ):
        assert float(value) == pytest.approx(expected, rel=1e-3)
        assert float(value) > 0


def test_logits_at_the_ends_of_float32() -> None:
    """Opposite rows at scale 10^30: the loss is the difference of logits, the gradient is finite."""
    image = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    text = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    loss = clip_loss(image, text, logit_scale=1e30)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2e30)
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())


def test_products_that_overflow_say_so() -> None:
    rows = torch.full((4, 8), 1e25)
    with pytest.raises(ValueError, match="products overflow; normalise the rows or raise the temperature"):
        info_nce(rows, -rows, temperature=0.1)


def test_wide_spread_of_rows_keeps_small_rows_exact() -> None:
    """One row thousands of times longer than the others must not push them below the smallest number."""
    image = _rows(40, 0).float()
    image[3] *= 3_000
    text = _rows(40, 1).float()
    ours = clip_loss(image, text, logit_scale=1.0)
    logits = image.double() @ text.double().T
    own = torch.arange(40)
    entropy = torch.nn.functional.cross_entropy
    assert float(ours) == pytest.approx(float(entropy(logits, own) + entropy(logits.T, own)) / 2, rel=1e-5)


def test_float32_gradient_is_as_near_to_the_truth_as_the_dense_formula() -> None:
    for scale in (10.0, 100.0):
        exact_image = torch.nn.functional.normalize(_rows(300, 0, 32), dim=1)
        exact_text = torch.nn.functional.normalize(exact_image + 0.5 * _rows(300, 1, 32), dim=1)

        def gradient(call, dtype, image=exact_image, text=exact_text, scale=scale):
            leaf = image.to(dtype).requires_grad_()
            return torch.autograd.grad(call(leaf, text.to(dtype), scale), leaf)[0].double()

        def dense(image, text, scale):
            logits, own = scale * image @ text.T, torch.arange(len(image))
            entropy = torch.nn.functional.cross_entropy
            return (entropy(logits, own) + entropy(logits.T, own)) / 2

        def tiled(image, text, scale):
            return clip_loss(image, text, logit_scale=scale)

        truth = gradient(dense, torch.float64)
        ours = (gradient(tiled, torch.float32) - truth).norm() / truth.norm()
        theirs = (gradient(dense, torch.float32) - truth).norm() / truth.norm()
        assert ours <= 2 * theirs
