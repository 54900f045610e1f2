"""Logistic regression on frozen vectors; its strength is chosen on training rows only."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from counterpoint.evaluation.checks import check_features

__all__ = ["STRENGTHS", "LinearProbeResult", "linear_probe"]

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse regularisation strengths (scikit-learn's C) that are tried."""

_HELD_OUT = 0.2
_ITERATIONS = 1000


@dataclass(frozen=True)
class LinearProbeResult:
    """Outcome of a linear probe.

    Attributes:
        accuracy: share of right test rows, in [0, 1].
        strength: the C that was chosen.
        selection: accuracy of each C on the held-out training rows; empty when there were too few rows to
            choose.
    """

    accuracy: float
    strength: float
    selection: dict[float, float]


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> LinearProbeResult:
    """Multinomial logistic regression on standardised vectors.

    The training rows are cut 80 : 20 by class; each strength is fitted on the larger part and judged on the
    smaller; the best (the smallest of equals) is fitted on all training rows. Test rows are looked at once,
    at the end. Mean and deviation of the features come from the training rows.

    Args:
        train, train_labels: (N, D) and (N,) integers.
        test, test_labels: (M, D) and (M,).
        strengths: values of C to choose from, above 0.
        seed: of the cut.

    Raises:
        ValueError: fewer than two classes, shapes that do not fit.
    """
    check_features("train", train, train_labels)
    check_features("test", test, test_labels)
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train has {train.shape[1]} dimensions, test {test.shape[1]}")
    x, y = train.double().cpu().numpy(), train_labels.cpu().numpy()
    if len(np.unique(y)) < 2:
        raise ValueError(f"a linear probe needs at least two classes in train, got only class {y[0]}")
    strength, selection = _choose(x, y, strengths, seed)
    model = _fit(x, y, strength)
    predicted = model.predict(test.double().cpu().numpy())
    return LinearProbeResult(float((predicted == test_labels.cpu().numpy()).mean()), strength, selection)


def _fit(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=_ITERATIONS))
    with warnings.catch_warnings():
        # Weak regularisation on separable rows has no optimum; held-out accuracy judges it all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return model


def _choose(x: np.ndarray, y: np.ndarray, strengths: Sequence[float], seed: int) -> tuple[float, dict[float, float]]:
    from sklearn.model_selection import train_test_split

    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths must be numbers above 0, got {tuple(strengths)}")
    counts = np.unique(y, return_counts=True)[1]
    held_out = max(round(_HELD_OUT * len(y)), len(counts))
    if len(strengths) == 1 or counts.min() < 2 or len(y) - held_out < len(counts):
        return (1.0 if 1.0 in strengths else sorted(strengths)[len(strengths) // 2]), {}
    fit_x, judge_x, fit_y, judge_y = train_test_split(x, y, test_size=held_out, stratify=y, random_state=seed)
    selection = {c: float(_fit(fit_x, fit_y, c).score(judge_x, judge_y)) for c in sorted(strengths)}
    return max(selection, key=lambda c: (selection[c], -c)), selection
