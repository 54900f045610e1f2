"""Weighted k-nearest-neighbour classification on frozen vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from counterpoint.evaluation.checks import check_features

__all__ = ["knn_accuracy", "knn_scores"]


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Votes of the k nearest training rows, weighted by exp(cosine / temperature) (Wu et al. 2018, eq. 4-5).

    Args:
        train: (N, D), any scale: rows are normalised here.
        train_labels: (N,) integers in [0, classes).
        queries: (Q, D).
        classes: number of classes.
        k: neighbours; all training rows where there are fewer.
        temperature: of the weights, above 0.

    Returns:
        (Q, classes), rows sum to one. Computed in tiles: memory is linear in N.

    Raises:
        ValueError: shapes that do not fit, k below 1, temperature not above 0.
    """
    check_features("train", train, train_labels)
    check_features("queries", queries)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    bank = normalize(train.float(), dim=1)
    votes = one_hot(train_labels.long(), classes).float()  # (N, classes)
    rows = max(1, 8_000_000 // max(len(bank), 1))
    scores = []
    for tile in queries.split(rows):
        similarity = normalize(tile.float(), dim=1) @ bank.T  # (T, N)
        nearest = similarity.topk(min(k, len(bank)), dim=1)
        weights = (nearest.values / temperature).softmax(dim=1)  # the same ratios as exp, without overflow
        scores.append((votes[nearest.indices] * weights[..., None]).sum(dim=1))  # (T, classes)
    return torch.cat(scores)


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test rows whose class wins the weighted vote of `knn_scores`, in [0, 1].

    Args:
        train, train_labels: (N, D) and (N,): the rows that vote.
        test, test_labels: (M, D) and (M,).
        k, temperature: as in `knn_scores`.
    """
    check_features("test", test, test_labels)
    classes = int(torch.cat([train_labels, test_labels]).max()) + 1
    scores = knn_scores(train, train_labels, test, classes=classes, k=k, temperature=temperature)
    return float((scores.argmax(dim=1) == test_labels.to(scores.device)).float().mean())
