"""Retrieval measures against loops written from trec_eval's definitions, and against recorded values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.evaluation import retrieval
from counterpoint.evaluation.retrieval import chance_metrics, rank_gallery, retrieval_metrics, same_group

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "contriever"


def _slow(scores: list[float], relevance: list[int], k: int) -> dict[str, float]:
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    ranked = [max(relevance[place], 0) for place in order]
    total = sum(gain > 0 for gain in ranked)
    if total == 0:
        return {"ndcg": 0.0, "recall": 0.0, "map": 0.0, "precision": 0.0, "mrr": 0.0}
    dcg = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(ranked[:k]))
    best = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(ranked, reverse=True)[:k]))
    found, precisions = 0, 0.0
    for rank, gain in enumerate(ranked[:k]):
        if gain > 0:
            found += 1
            precisions += found / (rank + 1)
    first = next(rank for rank, gain in enumerate(ranked) if gain > 0)
    return {
        "ndcg": dcg / best,
        "recall": found / total,
        "map": precisions / total,
        "precision": found / k,
        "mrr": 1 / (first + 1),
    }


def test_against_the_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        queries, documents = rng.integers(1, 5), rng.integers(1, 40)
        scores = rng.permutation(queries * documents).reshape(queries, documents).astype(float)
        relevance = rng.choice([-1, 0, 0, 0, 1, 2, 3], (queries, documents))
        cuts = (1, 3, 10, 100)
        found = retrieval_metrics(torch.from_numpy(scores), torch.from_numpy(relevance), cuts)
        for query in range(queries):
            for k in cuts:
                expected = _slow(scores[query].tolist(), relevance[query].tolist(), k)
                for name, value in expected.items():
                    measured = found[name if name == "mrr" else f"{name}@{k}"][query]
                    assert abs(float(measured) - value) <= 1e-12, (name, k)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("retrieval_metrics_*.npz")), ids=lambda path: path.stem)
def test_against_values_of_trec_eval(file: Path) -> None:
    with np.load(file, allow_pickle=False) as stored:
        values = {name: stored[name] for name in stored.files}
    found = retrieval_metrics(
        torch.from_numpy(values.pop("scores")), torch.from_numpy(values.pop("relevance")), (1, 10, 100)
    )
    assert values
    for name, expected in values.items():
        np.testing.assert_allclose(found[name.replace("_at_", "@")].numpy(), expected, atol=2e-9, err_msg=name)


def test_equal_scores_keep_the_order_of_the_columns() -> None:
    relevance = torch.eye(8)
    found = retrieval_metrics(torch.zeros(8, 8), relevance, (1,))
    assert float(found["recall@1"].mean()) == 1 / 8  # a collapsed model is at chance, not at 0 and not at 1


def test_tiles_give_the_values_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = torch.randn(37, 8), torch.randn(50, 8)
    query_groups, gallery_groups = torch.arange(37) % 10, torch.arange(50) % 10
    relevance = same_group(query_groups, gallery_groups)
    whole = rank_gallery(queries, gallery, relevance)
    monkeypatch.setattr(retrieval, "_TILE_ELEMENTS", 170)  # 3 queries a tile
    tiled = rank_gallery(queries, gallery, relevance)
    assert all(torch.equal(whole[name], tiled[name]) for name in whole)


def test_a_hit_is_any_row_of_the_group() -> None:
    gallery = torch.eye(4)
    queries = torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    found = rank_gallery(queries, gallery, same_group(torch.tensor([1]), torch.tensor([1, 0, 1, 1])), at=(1, 2))
    assert float(found["hit@1"]) == 0.0
    assert float(found["hit@2"]) == 1.0
    assert float(found["recall@2"]) == pytest.approx(1 / 3)


def test_own_similarity_takes_the_place_of_the_cosine() -> None:
    gallery, groups = torch.tensor([[1.0, 0.0], [5.0, 5.0]]), torch.tensor([0, 1])
    queries = torch.tensor([[1.0, 0.0]])
    relevance = same_group(torch.tensor([1]), groups)
    assert float(rank_gallery(queries, gallery, relevance, at=(1,))["hit@1"]) == 0.0
    dot = rank_gallery(queries, gallery, relevance, at=(1,), score=lambda q, k: q @ k.T)
    assert float(dot["hit@1"]) == 1.0


def test_chance_is_the_mean_over_random_orders() -> None:
    rng = torch.Generator().manual_seed(0)
    right = torch.tensor([1, 1, 3, 7])
    groups = torch.zeros(4, 20)
    for query, count in enumerate(right.tolist()):
        groups[query, :count] = 1
    expected = chance_metrics(right, 20, at=(1, 5, 30))
    draws = 1500
    totals: dict[str, float] = {}
    for _ in range(draws):
        found = rank_gallery(torch.rand(4, 20, generator=rng), torch.eye(20), lambda rows: groups[rows], at=(1, 5, 30))
        for name in expected:
            totals[name] = totals.get(name, 0.0) + float(found[name].mean()) / draws
    for name, value in expected.items():
        assert totals[name] == pytest.approx(value, abs=0.02), name


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"scores \(2, 3\) and relevance \(3, 2\)"):
        retrieval_metrics(torch.rand(2, 3), torch.ones(3, 2))
    with pytest.raises(ValueError, match="not finite, first in row 1"):
        retrieval_metrics(torch.tensor([[0.0], [float("nan")]]), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"cut-offs of at least 1, got \(0,\)"):
        retrieval_metrics(torch.rand(2, 3), torch.ones(2, 3), (0,))
    with pytest.raises(TypeError, match="floating point, got torch.int64"):
        retrieval_metrics(torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3))
    with pytest.raises(ValueError, match="1 queries have no right answer in the gallery, first query 1"):
        same_group(torch.tensor([0, 5]), torch.tensor([0, 1]))
