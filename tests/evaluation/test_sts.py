"""Spearman correlations against scipy, a loop, and recorded values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from counterpoint.evaluation.sts import spearman, sts_spearman

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "esimcse"


def _average_ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])


def test_against_pearson_of_average_ranks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = rng.integers(3, 40)
        predicted, gold = rng.normal(size=size).round(1), rng.integers(0, 4, size).astype(float)
        if len(set(gold)) < 2 or len(set(predicted)) < 2:
            continue
        expected = stats.pearsonr(_average_ranks(predicted), _average_ranks(gold)).statistic
        assert spearman(predicted, gold) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("spearman_*.npz")), ids=lambda path: path.stem)
def test_against_recorded_values(file: Path) -> None:
    with np.load(file, allow_pickle=False) as stored:
        found = sts_spearman(stored["pred"], stored["gold"], stored["subset"])
        np.testing.assert_allclose(found.all, stored["spearman_all"], atol=1e-9)
        np.testing.assert_allclose(list(found.per_subset.values()), stored["spearman_per_subset"], atol=1e-9)
        np.testing.assert_allclose(found.mean, stored["spearman_mean"], atol=1e-9)
        np.testing.assert_allclose(found.weighted_mean, stored["spearman_wmean"], atol=1e-9)


def test_all_is_not_the_mean_of_the_subsets() -> None:
    predicted = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7]
    found = sts_spearman(predicted, [1, 2, 3, 4, 5, 6], ["a", "a", "a", "b", "b", "b"])
    assert found.per_subset == {"a": pytest.approx(1.0), "b": pytest.approx(-1.0)}
    assert found.mean == pytest.approx(0.0)
    assert found.all == pytest.approx(stats.spearmanr(predicted, [1, 2, 3, 4, 5, 6]).statistic)


def test_constant_predictions_rank_nothing() -> None:
    assert spearman([0.5, 0.5, 0.5], [1, 2, 3]) == 0.0


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="all 3 gold scores are 2"):
        spearman([1, 2, 3], [2, 2, 2])
    with pytest.raises(ValueError, match="subset 'b': all 2 gold scores are 3"):
        sts_spearman([1, 2, 3, 4], [1, 2, 3, 3], ["a", "a", "b", "b"])
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="must be finite"):
        spearman([1, float("nan"), 3], [1, 2, 3])
