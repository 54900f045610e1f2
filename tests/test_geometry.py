"""Measures of an embedding against loops over their definitions, at any tile size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from counterpoint import geometry


def _unit(rows: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=1)


def _squared(first: Tensor, second: Tensor) -> float:
    return sum((a - b) ** 2 for a, b in zip(first.tolist(), second.tolist(), strict=True))


@pytest.fixture(params=[1, 2, 3, 2048])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(geometry, "TILE", request.param)
    return int(request.param)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.5])
def test_alignment(exponent: float) -> None:
    first, second = _unit(7, 4), _unit(7, 4, seed=1)
    expected = sum(_squared(a, b) ** (exponent / 2) for a, b in zip(first, second, strict=True)) / 7
    assert float(geometry.alignment(first, second, exponent=exponent)) == pytest.approx(expected, rel=1e-12)
    assert float(geometry.alignment(first, first, exponent=exponent)) == 0.0


@pytest.mark.parametrize("rows", [2, 5, 7])
def test_uniformity(tile: int, rows: int) -> None:
    points = _unit(rows, 4).requires_grad_()
    pairs = [math.exp(-3.0 * _squared(a, b)) for a, b in itertools.combinations(points.detach(), 2)]
    value = geometry.uniformity(points, temperature=3.0)
    assert float(value.detach()) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: geometry.uniformity(x, temperature=3.0), points)


def test_uniformity_of_a_collapse_is_zero_and_of_far_points_is_finite() -> None:
    assert float(geometry.uniformity(torch.ones(5, 3))) == pytest.approx(0.0, abs=1e-5)
    far = torch.eye(4) * 100.0
    assert float(geometry.uniformity(far)) == pytest.approx(-2 * 20_000.0)


def test_tolerance() -> None:
    points, labels = _unit(8, 4), torch.tensor([0, 1, 0, 2, 1, 1, 3, 0])
    same = [(i, j) for i in range(8) for j in range(8) if i != j and labels[i] == labels[j]]
    expected = sum(float(points[i] @ points[j]) for i, j in same) / len(same)
    assert float(geometry.tolerance(points, labels)) == pytest.approx(expected, rel=1e-12)


def test_tolerance_over_all_pairs_is_the_indicator_average() -> None:
    rows, labels = _unit(7, 6), torch.tensor([0, 1, 0, 2, 1, 0, 3])
    same = [(float(rows[i] @ rows[j]), bool(labels[i] == labels[j])) for i in range(7) for j in range(7) if i != j]
    total, pairs = sum(s for s, y in same if y), sum(y for _, y in same)
    assert float(geometry.tolerance_all_pairs(rows, labels)) == pytest.approx(total / 42, abs=1e-12)
    assert float(geometry.tolerance(rows, labels)) == pytest.approx(total / pairs)


def test_unit_length_stands_up_to_half_precision() -> None:
    rows = torch.tensor([[30_000.0, 40_000.0]])
    for dtype, kept in ((torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)):
        found = geometry.unit_length(rows.to(dtype))
        assert found.dtype == kept
        torch.testing.assert_close(found, torch.tensor([[0.6, 0.8]], dtype=kept), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)])
def test_effective_rank(shape: tuple[int, int]) -> None:
    points = _unit(*shape)
    values = torch.linalg.svdvals(points)
    share = (values / values.sum()).tolist()
    expected = math.exp(-sum(p * math.log(p) for p in share))
    assert float(geometry.effective_rank(points)) == pytest.approx(expected, rel=1e-7)


def test_effective_rank_of_known_embeddings() -> None:
    assert float(geometry.effective_rank(torch.eye(5))) == pytest.approx(5.0)
    assert float(geometry.effective_rank(torch.ones(9, 4))) == pytest.approx(1.0, abs=1e-5)
    assert float(geometry.effective_rank(torch.zeros(9, 4))) == 0.0
    noisy = torch.ones(50, 8) + 1e-3 * torch.randn(50, 8)
    assert float(geometry.effective_rank(noisy)) < 2


def test_duplicate_rate(tile: int) -> None:
    rows = torch.tensor([[1.0, 0], [0, 1], [3, 0], [-1, 0], [0.9999, 0.001], [0, 0], [0, 0], [1, 1]])
    assert geometry.duplicate_rate(rows) == 5 / 8
    assert geometry.duplicate_rate(rows, threshold=0.7) == 7 / 8
    assert geometry.duplicate_rate(rows[:1]) == 0.0
    assert geometry.duplicate_rate(_unit(6, 5).repeat(2, 1).half()) == 1.0


@pytest.mark.parametrize("temperature", [0.01, 0.2, 5.0])
@pytest.mark.parametrize("hardest", [0.1, 0.34, 1.0])
def test_hardest_share(tile: int, temperature: float, hardest: float) -> None:
    query, key = _unit(7, 4, seed=1), _unit(7, 4, seed=2)
    total = 0.0
    for i in range(7):
        pushes = [math.exp(float(query[i] @ key[j]) / temperature) for j in range(7) if j != i]
        total += sum(sorted(pushes, reverse=True)[: max(1, int(hardest * 6 + 0.5))]) / sum(pushes) / 7
    assert geometry.hardest_share(query, key, temperature=temperature, hardest=hardest) == pytest.approx(total)


def test_hardest_share_follows_the_gradient_of_the_loss() -> None:
    """It is the share of |dL/ds| of that negative, from autograd."""
    query, key = _unit(12, 6, seed=3), _unit(12, 6, seed=4)
    similar = (query @ key.T).requires_grad_()
    torch.nn.functional.cross_entropy(similar / 0.2, torch.arange(12)).backward()
    assert similar.grad is not None
    push = similar.grad.clone().fill_diagonal_(0)
    share = float((push.max(dim=1).values / push.sum(dim=1)).mean())
    assert geometry.hardest_share(query, key, temperature=0.2) == pytest.approx(share)


def test_measures_take_half_precision() -> None:
    points = _unit(6, 5).half()
    assert float(geometry.uniformity(points)) == pytest.approx(float(geometry.uniformity(points.double())), rel=1e-5)
    assert geometry.alignment(points, points.flip(0)).dtype == torch.float32


ONE = [
    geometry.uniformity,
    geometry.effective_rank,
    geometry.duplicate_rate,
    lambda rows: geometry.tolerance(rows, torch.zeros(len(rows), dtype=torch.int64)),
]


@pytest.mark.parametrize("measure", ONE, ids=["uniformity", "effective_rank", "duplicate_rate", "tolerance"])
def test_wrong_rows_are_named(measure) -> None:
    bad = torch.ones(4, 3)
    bad[2, 1] = math.nan
    with pytest.raises(ValueError, match="embeddings must be finite, but row 2"):
        measure(bad)
    with pytest.raises(TypeError, match="embeddings must be a floating tensor, got torch.int64"):
        measure(torch.ones(4, 3).long())
    for shape in ((0, 3), (4,), (4, 0)):
        with pytest.raises(ValueError, match=r"embeddings must have shape \(N, D\)"):
            measure(torch.ones(shape))


def test_wrong_settings_are_named() -> None:
    rows = _unit(4, 3)
    with pytest.raises(ValueError, match="N >= 2"):
        geometry.uniformity(rows[:1])
    with pytest.raises(ValueError, match="temperature must be positive"):
        geometry.uniformity(rows, temperature=0.0)
    with pytest.raises(ValueError, match="exponent must be positive"):
        geometry.alignment(rows, rows, exponent=0.0)
    with pytest.raises(ValueError, match="same shape"):
        geometry.alignment(rows, rows[:3])
    with pytest.raises(ValueError, match="temperature must be > 0, got 0.0"):
        geometry.hardest_share(rows, rows, temperature=0.0)
    with pytest.raises(ValueError, match=r"hardest must lie in \(0, 1\], got 0.0"):
        geometry.hardest_share(rows, rows, temperature=1.0, hardest=0.0)
    with pytest.raises(ValueError, match="query and key must have the same shape"):
        geometry.hardest_share(rows, rows[:3], temperature=1.0)
    with pytest.raises(ValueError, match="threshold must lie"):
        geometry.duplicate_rate(rows, threshold=2.0)
    with pytest.raises(ValueError, match="labels must have shape"):
        geometry.tolerance(rows, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="some class twice"):
        geometry.tolerance(rows, torch.arange(4))
