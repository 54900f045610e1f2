"""Transported prototypes against loops, and the episodes that use them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.evaluation.few_shot import few_shot_accuracy
from counterpoint.evaluation.protocol import list_protocols
from counterpoint.evaluation.transport import standardise, transport_plan, transport_prototypes


def _rows(count: int, seed: int, dim: int = 4) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _slow_plan(prototypes: Tensor, queries: Tensor, epsilon: float, rounds: int) -> list[list[float]]:
    """Sinkhorn's scaling of exp(-cost / epsilon), on plain numbers."""
    cost = [[float(((p - q) ** 2).sum()) for q in queries] for p in prototypes]
    largest = max(max(row) for row in cost)
    kernel = [[math.exp(-value / largest / epsilon) for value in row] for row in cost]
    c, n = len(cost), len(cost[0])
    right = [1.0] * n
    for _ in range(rounds):
        left = [1 / c / sum(k * r for k, r in zip(row, right, strict=True)) for row in kernel]
        right = [1 / n / sum(kernel[i][j] * left[i] for i in range(c)) for j in range(n)]
    return [[left[i] * kernel[i][j] * right[j] for j in range(n)] for i in range(c)]


def test_the_plan_is_sinkhorns() -> None:
    prototypes, queries = _rows(3, 0), _rows(10, 1)
    plan, cost = transport_plan(prototypes, queries, tolerance=1e-12)
    wanted = torch.tensor(_slow_plan(prototypes, queries, 0.05, 3000), dtype=torch.float64)
    torch.testing.assert_close(plan, wanted, rtol=1e-5, atol=1e-8)
    assert float(cost.max()) == 1.0
    torch.testing.assert_close(plan.sum(dim=1), torch.full((3,), 1 / 3, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(plan.sum(dim=0), torch.full((10,), 0.1, dtype=torch.float64), rtol=1e-5, atol=0)


def test_passes_and_ratio() -> None:
    prototypes, queries = _rows(3, 0), _rows(10, 1)
    moved = prototypes
    for _ in range(2):
        plan, _ = transport_plan(moved, queries)
        moved = torch.stack([sum(w * q for w, q in zip(row / row.sum(), queries, strict=True)) for row in plan])
    torch.testing.assert_close(transport_prototypes(prototypes, queries, passes=2), moved)
    blend = transport_prototypes(prototypes, queries, passes=2, ratio=0.7)
    torch.testing.assert_close(blend, 0.7 * moved + 0.3 * prototypes)
    assert torch.equal(transport_prototypes(prototypes, queries, passes=0), prototypes)


def test_standardise_is_per_vector_and_unbiased() -> None:
    rows = standardise(3 + 2 * _rows(5, 0, 7))
    torch.testing.assert_close(rows.mean(dim=1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.var(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.isfinite(standardise(torch.ones(2, 3))).all()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"must agree, got \(3, 4\) and \(5, 2\)"):
        transport_plan(_rows(3, 0), _rows(5, 0, 2))
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        transport_plan(_rows(3, 0), _rows(5, 0), epsilon=0.0)


def test_transport_helps_most_at_one_shot_on_real_digits() -> None:
    """The sheet's check: 20 principal components, 5 ways, 15 queries; it found 75 to 85 % and 89 to 91 %."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    data = load_digits()
    vectors = torch.from_numpy(PCA(20, random_state=0).fit_transform(data.data))
    labels = torch.from_numpy(np.array(data.target))
    found = {
        (method, shots): few_shot_accuracy(vectors, labels, shots=shots, episodes=60, method=method).accuracy
        for method in ("prototype", "transport")
        for shots in (1, 5)
    }
    gains = {shots: found["transport", shots] - found["prototype", shots] for shots in (1, 5)}
    assert gains[1] > 0.05 and gains[1] > gains[5] > -0.01, found


def test_the_protocol_runs_when_it_is_asked_for() -> None:
    from counterpoint.data import Rows
    from counterpoint.evaluation.evaluate import evaluate
    from toy_models import COLOURS, ImageModel, coloured

    assert not list_protocols()["few_shot_transport"].default
    rows = Rows.from_list([{k: r[k] for k in ("id", "image", "label")} for r in coloured(60, 0)], name="cards")
    assert COLOURS
    scores = evaluate(ImageModel(), rows, protocols={"few_shot_transport": {"shots": [1], "episodes": 5}})["scores"]
    plain, moved = (scores[f"few_shot_transport/1_shot_{name}"] for name in ("accuracy", "transported"))
    assert 0 <= plain <= 1 and scores["few_shot_transport/1_shot_gain"] == pytest.approx(moved - plain)
