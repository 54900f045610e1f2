"""Statistics of Gaussian classes and their classifier, written out as sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.gaussians import (
    averaged_precision,
    class_means,
    fit_unlabelled,
    gaussian_head,
    pooled_scatter,
    ridge_precision,
    soft_statistics,
)

D = 12


def _classes(seed: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Unit rows of four classes around centres of their own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(per_class)
    centres, noise = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (4, len(labels)))
    return normalize(centres[labels] + 0.5 * noise, dim=1), labels


def test_statistics_and_head_are_the_written_out_sums() -> None:
    features, labels = _classes(0, 6)
    x, y = features.numpy(), labels.numpy()
    means = np.stack([x[y == k].mean(axis=0) for k in range(4)])
    scatter = sum(np.outer(row - means[k], row - means[k]) for row, k in zip(x, y, strict=True))
    covariance = scatter / (len(x) - 1)
    precision = D * np.linalg.inv((len(x) - 1) * covariance + np.trace(covariance) * np.eye(D))
    ours = class_means(features, labels, 4)
    assert np.allclose(ours, means, atol=1e-12)
    found = ridge_precision(pooled_scatter(features, labels, ours), len(x))
    assert np.allclose(found, precision, rtol=1e-9)
    weight, bias = gaussian_head(ours, found)
    for k in range(4):
        assert np.allclose(weight[:, k], precision @ means[k], rtol=1e-9)
        assert float(bias[k]) == pytest.approx(np.log(1 / 4) - means[k] @ precision @ means[k] / 2, rel=1e-9)
    average = np.mean([np.cov(x[y == k].T) for k in range(4)], axis=0)
    assert np.allclose(averaged_precision(features, labels, ours), np.linalg.pinv(average), rtol=1e-6)


def test_soft_statistics_with_hard_posteriors_are_the_hard_ones() -> None:
    features, labels = _classes(7, 5)
    means, covariance = soft_statistics(features, torch.eye(4, dtype=torch.float64)[labels])
    assert torch.allclose(means, class_means(features, labels, 4), atol=1e-12)
    scatter = pooled_scatter(features, labels, means)
    assert torch.allclose(covariance, scatter / 5 / 4, atol=1e-12)


def test_em_takes_at_least_one_step() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        fit_unlabelled(_classes(0, 3)[0], torch.zeros(12, 4), alpha=1.0, iterations=0)
