"""The linear probe against scikit-learn, and proof that test labels never steer it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from counterpoint.evaluation.linear_probe import linear_probe


def _data(rows: int = 240, noise: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(3, 10, generator=generator)
    labels = torch.arange(rows) % 3
    vectors = centres[labels] + noise * torch.randn(rows, 10, generator=generator)
    return vectors[::2], labels[::2], vectors[1::2], labels[1::2]


def test_against_scikit_learn_at_the_chosen_strength() -> None:
    train, train_labels, test, test_labels = _data()
    found = linear_probe(train, train_labels, test, test_labels)
    scaler = StandardScaler().fit(train.double().numpy())
    model = LogisticRegression(C=found.strength, max_iter=1000)
    model.fit(scaler.transform(train.double().numpy()), train_labels.numpy())
    assert found.accuracy == model.score(scaler.transform(test.double().numpy()), test_labels.numpy())
    assert found.strength == max(found.selection, key=lambda c: (found.selection[c], -c))
    assert len(found.selection) == 6


def test_the_strength_is_chosen_without_the_test_rows() -> None:
    """Other test rows, and test labels turned into noise, leave the choice as it is."""
    train, train_labels, test, test_labels = _data()
    chosen = linear_probe(train, train_labels, test, test_labels)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        labels = test_labels[torch.randperm(len(test_labels), generator=generator)]
        other = linear_probe(train, train_labels, torch.randn(test.shape, generator=generator) * 9 + 5, labels)
        assert (other.strength, other.selection) == (chosen.strength, chosen.selection)


def test_no_fit_ever_sees_a_test_row(monkeypatch: pytest.MonkeyPatch) -> None:
    train, train_labels, test, test_labels = _data()
    known = {row.tobytes() for row in train.double().numpy()}
    seen: list[int] = []
    module = importlib.import_module("counterpoint.evaluation.linear_probe")
    fit = module._fit

    def watched(x: np.ndarray, y: np.ndarray, strength: float) -> object:
        assert all(row.tobytes() in known for row in x)
        seen.append(len(x))
        return fit(x, y, strength)

    monkeypatch.setattr(module, "_fit", watched)
    linear_probe(train, train_labels, test, test_labels)
    assert seen == [96] * 6 + [120]


def test_noise_labels_stay_at_chance() -> None:
    """With 120 random labels of 3 classes, three standard errors are 0.13."""
    generator = torch.Generator().manual_seed(1)
    train, _, test, _ = _data()
    labels = torch.randint(0, 3, (240,), generator=generator)
    found = linear_probe(train, labels[:120], test, labels[120:])
    assert abs(found.accuracy - 1 / 3) < 0.13


def test_few_rows_use_the_middle_strength() -> None:
    found = linear_probe(torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.randn(2, 4), torch.tensor([0, 1]))
    assert found.strength == 1.0
    assert found.selection == {}


def test_seed_repeats() -> None:
    data = _data(90)
    assert linear_probe(*data, seed=4) == linear_probe(*data, seed=4)


def test_errors_name_the_argument() -> None:
    train, train_labels, test, test_labels = _data()
    with pytest.raises(ValueError, match="at least two classes in train, got only class 0"):
        linear_probe(train, torch.zeros_like(train_labels), test, test_labels)
    with pytest.raises(ValueError, match="train has 10 dimensions, test 9"):
        linear_probe(train, train_labels, test[:, :9], test_labels)
    with pytest.raises(ValueError, match=r"strengths must be numbers above 0, got \(0,\)"):
        linear_probe(train, train_labels, test, test_labels, strengths=(0,))
    broken = train.clone()
    broken[7, 0] = float("inf")
    with pytest.raises(ValueError, match="train has values that are not finite, first in row 7"):
        linear_probe(broken, train_labels, test, test_labels)
