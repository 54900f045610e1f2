"""Semantic textual similarity: rank correlation between predicted and human scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["StsScores", "spearman", "sts_spearman"]


class StsScores(NamedTuple):
    """Spearman correlations in [-1, 1].

    Attributes:
        all: over all pairs together (the number that papers report).
        per_subset: by subset, in sorted order; empty without subsets.
        mean: plain mean of `per_subset`.
        weighted_mean: mean of `per_subset` weighted by the number of pairs.
    """

    all: float
    per_subset: dict[Any, float]
    mean: float
    weighted_mean: float


def spearman(predicted: ArrayLike, gold: ArrayLike) -> float:
    """Spearman's rank correlation; ties get their average rank (scipy).

    Constant predictions rank nothing and score 0.

    Raises:
        ValueError: other than two equally long vectors of at least two finite numbers, or all gold scores
            equal.
    """
    from scipy.stats import spearmanr

    first, second = np.asarray(predicted, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"predicted and gold must be two equally long vectors of at least 2, got {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("predicted and gold must be finite: leave out pairs without a score")
    if (second == second[0]).all():
        raise ValueError(f"all {len(second)} gold scores are {second[0]:g}: a rank correlation needs different ones")
    if (first == first[0]).all():
        return 0.0
    return float(spearmanr(first, second).statistic)


def sts_spearman(predicted: ArrayLike, gold: ArrayLike, subsets: Sequence[Any] | None = None) -> StsScores:
    """Spearman correlation over all pairs, per subset, and both means of the subsets.

    Args:
        predicted: (N,) similarities.
        gold: (N,) human scores.
        subsets: (N,) name or number of the subset each pair belongs to.
    """
    predicted, gold = np.asarray(predicted, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    whole = spearman(predicted, gold)
    if subsets is None:
        return StsScores(whole, {}, whole, whole)
    names = np.asarray(subsets)
    if names.shape != gold.shape:
        raise ValueError(f"subsets must name the subset of each pair: {names.shape} for {gold.shape} pairs")
    per_subset, sizes = {}, []
    for name in np.unique(names):
        chosen = names == name
        try:
            per_subset[name.item()] = spearman(predicted[chosen], gold[chosen])
        except ValueError as error:
            raise ValueError(f"subset {name.item()!r}: {error}") from error
        sizes.append(int(chosen.sum()))
    values = list(per_subset.values())
    return StsScores(whole, per_subset, float(np.mean(values)), float(np.average(values, weights=sizes)))
