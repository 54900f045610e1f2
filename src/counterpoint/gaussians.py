"""Classes as Gaussians of one covariance, and the classifier that follows: with labels, without, and from texts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "GaussianClasses",
    "averaged_precision",
    "class_means",
    "classes_from_texts",
    "fit_classes",
    "fit_unlabelled",
    "gaussian_head",
    "new_class",
    "pooled_scatter",
    "ridge_precision",
    "soft_statistics",
]

ROWS_AT_ONCE = 8192
"""Rows that are converted to double precision at a time."""


class GaussianClasses(NamedTuple):
    """K classes of D features.

    Attributes:
        means: (K, D).
        precision: (D, D), shared.
        weight, bias: (D, K), (K,) of the classifier `features @ weight + bias`.
    """

    means: Tensor
    precision: Tensor
    weight: Tensor
    bias: Tensor


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(N, D), (N,) -> (K, D) means in double precision, not normalised; zero where a class has no row."""
    sums = features.new_zeros(classes, features.shape[1], dtype=torch.float64)
    for rows, found in zip(features.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
        sums.index_add_(0, found, rows.double())
    return sums / labels.bincount(minlength=classes).clamp(min=1)[:, None]


def pooled_scatter(features: Tensor, labels: Tensor, means: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_i w_k(i) (x_i - mu_k(i)) (x_i - mu_k(i))^T, (D, D); `weights` (K,) are 1 by default."""
    scatter = means.new_zeros(means.shape[1], means.shape[1])
    for rows, found in zip(features.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), strict=True):
        centred = rows.double() - means[found]  # (n, D)
        scatter += centred.T @ (centred if weights is None else centred * weights[found, None])
    return scatter


def ridge_precision(scatter: Tensor, count: int) -> Tensor:
    """d pinv((N - 1) S + tr(S) I) with (N - 1) S = `scatter`: the paper's empirical Bayes ridge.

    Zero when there is no scatter: `pinv` turns a single row a class into a head that says nothing.
    """
    dim = len(scatter)
    ridge = scatter.trace() / max(count - 1, 1) * torch.eye(dim, dtype=scatter.dtype, device=scatter.device)
    return dim * torch.linalg.pinv(scatter + ridge, hermitian=True)


def averaged_precision(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """Base classes in base-to-new: plain `pinv` of the mean of the classes' unbiased covariances, (D, D)."""
    counts = labels.bincount(minlength=len(means))
    weights = 1 / (counts - 1).clamp(min=1).double()  # (K,)
    covariance = pooled_scatter(features, labels, means, weights) / len(means)
    return torch.linalg.pinv(covariance, hermitian=True)


def gaussian_head(means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """W = P M^T (D, K) and b_k = log(1 / K) - mu_k^T P mu_k / 2 (K,): equal priors, shared covariance."""
    weight = precision @ means.T
    return weight, -0.5 * (means.T * weight).sum(dim=0) - means.new_tensor(len(means)).log()


def new_class(features: Tensor, text: Tensor, *, neighbours: int, repeats: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and precision (D, D) of a class without images, from the images nearest to its text (D,).

    The covariance is centred on the text embedding, not on the mean.
    """
    count = min(neighbours, len(features))
    nearest = features[(features @ text).topk(count).indices].double()  # (k, D)
    centred = nearest - text
    return (nearest.sum(dim=0) + repeats * text) / (count + repeats), ridge_precision(centred.T @ centred, count)


def soft_statistics(features: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
    """M-step: means (K, D) and the classes' mean covariance (D, D) of rows shared by `posterior` (N, K)."""
    shares = posterior / posterior.sum(dim=0).clamp(min=torch.finfo(posterior.dtype).tiny)  # (N, K)
    means = shares.T @ features
    second = features.T @ (features * shares.sum(dim=1, keepdim=True))  # sum over the classes of E[x x^T]
    return means, (second - means.T @ means) / posterior.shape[1]


def fit_classes(features: Tensor, labels: Tensor, classes: int, *, ridge: bool) -> GaussianClasses:
    """From rows (N, D) in double precision and their labels (N,), with `ridge_precision` or `averaged_precision`."""
    means = class_means(features, labels, classes)
    if ridge:
        precision = ridge_precision(pooled_scatter(features, labels, means), len(features))
    else:
        precision = averaged_precision(features, labels, means)
    return GaussianClasses(means, precision, *gaussian_head(means, precision))


def classes_from_texts(features: Tensor, texts: Tensor, *, neighbours: int, repeats: int) -> GaussianClasses:
    """C classes without images from their texts (C, D), by `new_class`; they share the mean of their precisions."""
    made = [new_class(features, text, neighbours=neighbours, repeats=repeats) for text in texts]
    means, precision = torch.stack([mean for mean, _ in made]), torch.stack([shape for _, shape in made]).mean(dim=0)
    return GaussianClasses(means, precision, *gaussian_head(means, precision))


def fit_unlabelled(features: Tensor, logits: Tensor, *, alpha: float, iterations: int) -> GaussianClasses:
    """EM: soft labels from the ensemble of given logits and Gaussian head, the head from the soft labels.

    Args:
        features: (N, D), in double precision.
        logits: (N, K), of a classifier to start from.
        alpha: weight of the head in the ensemble.
        iterations: most steps, at least 1; it ends when no label changes.

    Raises:
        ValueError: no iterations.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    posterior = logits.softmax(dim=1)  # (N, K)
    for _ in range(iterations):
        means, covariance = soft_statistics(features, posterior)
        precision = ridge_precision(covariance * (len(features) - 1), len(features))
        found = GaussianClasses(means, precision, *gaussian_head(means, precision))
        before = posterior.argmax(dim=1)
        posterior = (logits + alpha * (features @ found.weight + found.bias)).softmax(dim=1)
        if bool((posterior.argmax(dim=1) == before).all()):
            break
    return found
