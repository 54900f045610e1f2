"""Episodes against a slow version, their repeatability and their interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from counterpoint.evaluation.few_shot import few_shot_accuracy


def _data(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 8
    return torch.randn(8, 12, generator=generator)[labels] + spread * torch.randn(200, 12, generator=generator), labels


def test_against_a_loop_over_the_same_draws() -> None:
    vectors, labels = _data(1.0)
    found = few_shot_accuracy(vectors, labels, ways=4, shots=3, queries=5, episodes=20, seed=7)
    rng = np.random.default_rng(7)
    unit = torch.nn.functional.normalize(vectors.double(), dim=1).numpy()
    members = [[row for row in range(200) if labels[row] == label] for label in range(8)]
    accuracies = []
    for _ in range(20):
        support, queries = [], []
        for way, which in enumerate(rng.choice(8, 4, replace=False)):
            drawn = rng.permutation(members[which])[:8]
            support.append(sum(unit[row] for row in drawn[:3]) / 3)
            queries += [(unit[row], way) for row in drawn[3:]]
        right = [
            min(range(4), key=lambda way, query=query: float(((query - support[way]) ** 2).sum())) == answer
            for query, answer in queries
        ]
        accuracies.append(sum(right) / len(right))
    assert found.per_episode.tolist() == pytest.approx(accuracies)
    assert found.accuracy == pytest.approx(float(np.mean(accuracies)))
    assert found.interval == pytest.approx(1.96 * float(np.std(accuracies, ddof=1)) / 20**0.5)


@pytest.mark.parametrize("method", ["centroid", "logistic"])
def test_clear_classes_are_told_apart_and_noise_is_not(method: str) -> None:
    clear = few_shot_accuracy(*_data(0.05), method=method, episodes=20)
    assert clear.accuracy > 0.99
    vectors, labels = torch.randn(400, 12), torch.arange(400) % 8
    noise = few_shot_accuracy(vectors, labels, method=method, episodes=60)
    assert abs(noise.accuracy - 0.2) < 0.05


def test_seed_repeats_and_matters() -> None:
    vectors, labels = _data(1.0)
    first, again, other = (few_shot_accuracy(vectors, labels, episodes=30, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.per_episode, again.per_episode)
    assert not np.array_equal(first.per_episode, other.per_episode)


def test_errors_name_the_argument() -> None:
    vectors, labels = _data(1.0)
    with pytest.raises(ValueError, match="need 5 classes of more than 30 rows, found 0"):
        few_shot_accuracy(vectors, labels, shots=30)
    with pytest.raises(ValueError, match="ways must be at least 2, got 1"):
        few_shot_accuracy(vectors, labels, ways=1)
    with pytest.raises(ValueError, match="method must be 'centroid' or .*'transport', got 'svm'"):
        few_shot_accuracy(vectors, labels, method="svm")  # type: ignore[arg-type]
