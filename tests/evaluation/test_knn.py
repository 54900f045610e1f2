"""Weighted nearest neighbours against scikit-learn and a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from counterpoint.evaluation.knn import knn_accuracy, knn_scores


def _data(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 6, generator=generator)
    labels = torch.randint(0, 4, (90,), generator=generator)
    vectors = centres[labels] + torch.randn(90, 6, generator=generator)
    return vectors[:60], labels[:60], vectors[60:], labels[60:]


def test_against_scikit_learn() -> None:
    for seed in range(5):
        train, train_labels, test, test_labels = _data(seed)
        model = KNeighborsClassifier(
            n_neighbors=7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
        )
        model.fit(train.numpy(), train_labels.numpy())
        found = knn_scores(train, train_labels, test, classes=4, k=7, temperature=0.1)
        np.testing.assert_allclose(found.numpy(), model.predict_proba(test.numpy()), atol=1e-4)
        expected = (model.predict(test.numpy()) == test_labels.numpy()).mean()
        assert knn_accuracy(train, train_labels, test, test_labels, k=7, temperature=0.1) == pytest.approx(expected)


def test_against_a_loop() -> None:
    train, train_labels, test, _ = _data(9)
    found = knn_scores(train, train_labels, test, classes=5, k=3, temperature=0.5)
    for query, row in zip(test, found, strict=True):
        cosines = torch.cosine_similarity(query[None], train)
        nearest = sorted(range(60), key=lambda place: -float(cosines[place]))[:3]
        votes = [0.0] * 5
        for place in nearest:
            votes[int(train_labels[place])] += math.exp(float(cosines[place]) / 0.5)
        expected = [vote / sum(votes) for vote in votes]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


def test_small_temperature_stays_finite() -> None:
    train, train_labels, test, _ = _data(1)
    scores = knn_scores(train, train_labels, test, classes=4, temperature=1e-4)
    assert scores.isfinite().all()
    assert torch.allclose(scores.sum(1), torch.ones(len(test)))


def test_more_neighbours_than_rows_means_all() -> None:
    train, train_labels, test, test_labels = _data(2)
    assert knn_accuracy(train[:5], train_labels[:5], test, test_labels, k=50) >= 0.0


def test_errors_name_the_argument() -> None:
    train, train_labels, test, test_labels = _data(3)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        knn_accuracy(train, train_labels, test, test_labels, temperature=0)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn_accuracy(train, train_labels, test, test_labels, k=0)
    with pytest.raises(ValueError, match="train has 60 rows but its labels have shape"):
        knn_accuracy(train, train_labels[:9], test, test_labels)
    with pytest.raises(TypeError, match="labels must be integers"):
        knn_accuracy(train, train_labels.float(), test, test_labels)
