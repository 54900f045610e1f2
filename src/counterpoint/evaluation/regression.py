"""Ridge regression on frozen vectors, and the errors of predicted numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from counterpoint.evaluation.checks import check_features

__all__ = ["STRENGTHS", "RegressionErrors", "RidgeProbeResult", "regression_errors", "ridge_probe"]

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Ridge penalties (scikit-learn's alpha, on standardised vectors) that are tried."""

_FOLDS = 5


class RegressionErrors(NamedTuple):
    """Mean absolute error, root of the mean squared error, and Pearson's correlation in [-1, 1]."""

    mae: float
    rmse: float
    pearson: float


@dataclass(frozen=True)
class RidgeProbeResult:
    """Outcome of a ridge probe.

    Attributes:
        predictions: (M,) of the test rows.
        strength: the penalty that was chosen.
        selection: mean absolute error of each penalty in the cross-validation; empty when there was no choice.
    """

    predictions: np.ndarray
    strength: float
    selection: dict[float, float]


def regression_errors(predicted: ArrayLike, targets: ArrayLike) -> RegressionErrors:
    """How far predictions (N,) are from targets (N,). Constant predictions correlate with nothing: 0.

    Raises:
        ValueError: other than two equally long vectors of at least two finite numbers, or all targets equal.
    """
    first, second = np.asarray(predicted, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"predicted and targets must be two vectors of at least 2 numbers, got {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("predicted and targets must be finite: leave out rows without a target")
    if (second == second[0]).all():
        raise ValueError(f"all {len(second)} targets are {second[0]:g}: nothing to correlate with")
    error = first - second
    pearson = 0.0 if (first == first[0]).all() else float(np.corrcoef(first, second)[0, 1])
    return RegressionErrors(float(np.abs(error).mean()), float(np.sqrt((error**2).mean())), pearson)


def ridge_probe(
    train: Tensor, train_targets: Tensor, test: Tensor, *, strengths: Sequence[float] = STRENGTHS, seed: int = 0
) -> RidgeProbeResult:
    """Ridge regression on standardised vectors; the penalty is chosen by cross-validation over training rows.

    Five folds; the penalty with the smallest mean absolute error (the largest of equals) is fitted on all training
    rows. Means and deviations of the features come from the rows that are fitted. Test targets are never seen.

    Args:
        train, train_targets: (N, D) and (N,) floating.
        test: (M, D).
        strengths: penalties above 0 to choose from.
        seed: of the folds.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, penalties that are not above 0.
    """
    check_features("train", train)
    check_features("test", test)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train has {train.shape[1]} dimensions, test {test.shape[1]}")
    if train_targets.shape != train.shape[:1] or not bool(train_targets.isfinite().all()):
        raise ValueError(f"train_targets must be {len(train)} finite numbers, got {tuple(train_targets.shape)}")
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths must be numbers above 0, got {tuple(strengths)}")
    x, y = train.double().cpu().numpy(), train_targets.double().cpu().numpy()
    strength, selection = _choose(x, y, sorted(strengths), seed)
    predictions = _fit(x, y, strength).predict(test.double().cpu().numpy())
    return RidgeProbeResult(predictions, strength, selection)


def _fit(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha=strength)).fit(x, y)


def _choose(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], seed: int) -> tuple[float, dict[float, float]]:
    from sklearn.model_selection import KFold

    if len(strengths) == 1 or len(y) < 2 * _FOLDS:
        return strengths[len(strengths) // 2], {}
    selection = {}
    for strength in strengths:
        errors = np.empty_like(y)
        for fitted, judged in KFold(_FOLDS, shuffle=True, random_state=seed).split(x):
            errors[judged] = np.abs(_fit(x[fitted], y[fitted], strength).predict(x[judged]) - y[judged])
        selection[strength] = float(errors.mean())
    return min(selection, key=lambda s: (selection[s], -s)), selection
