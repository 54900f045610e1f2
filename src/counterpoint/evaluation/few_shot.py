"""N-way k-shot episodes on frozen vectors."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from counterpoint.evaluation.checks import check_features
from counterpoint.evaluation.transport import standardise, transport_prototypes

__all__ = ["FewShotMethod", "FewShotResult", "few_shot_accuracy"]

FewShotMethod = Literal["centroid", "logistic", "prototype", "transport"]


class FewShotResult(NamedTuple):
    """Mean accuracy over episodes in [0, 1] and the half width of its 95 % confidence interval."""

    accuracy: float
    interval: float
    per_episode: np.ndarray


def few_shot_accuracy(
    features: Tensor,
    labels: Tensor,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    method: FewShotMethod = "centroid",
    seed: int = 0,
) -> FewShotResult:
    """Accuracy over episodes: draw `ways` classes, `shots` labelled rows of each, classify `queries` others.

    Vectors are normalised. "centroid" takes the class with the nearest mean (Snell et al. 2017, eq. 1-2,
    Euclidean); "logistic" fits a multinomial logistic regression to the shots. BECLR's two (arXiv 2402.02444) take
    standardised vectors instead: "prototype" fits a logistic regression to the mean of each class, "transport"
    first moves these means onto the queries of the episode, all together (OpTA).

    Args:
        features: (N, D).
        labels: (N,) integers.
        ways: classes an episode.
        shots: labelled rows a class.
        queries: rows a class that are classified; fewer where a class has no more.
        episodes: how many; the interval shrinks with their square root.
        method: the classifier.
        seed: of the draws.

    Raises:
        ValueError: fewer than `ways` classes with more than `shots` rows.
    """
    check_features("features", features, labels)
    for name, value, least in (
        ("ways", ways, 2),
        ("shots", shots, 1),
        ("queries", queries, 1),
        ("episodes", episodes, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if method not in get_args(FewShotMethod):
        raise ValueError(f"method must be {' or '.join(map(repr, get_args(FewShotMethod)))}, got {method!r}")
    values = features.double().cpu().numpy()
    if method in ("prototype", "transport"):
        values = standardise(features.double().cpu()).numpy()
    else:
        values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    classes = labels.cpu().numpy()
    members = [np.flatnonzero(classes == label) for label in np.unique(classes)]
    members = [rows for rows in members if len(rows) > shots]
    if len(members) < ways:
        raise ValueError(
            f"{ways}-way {shots}-shot episodes need {ways} classes of more than {shots} rows, found {len(members)}"
        )
    rng = np.random.default_rng(seed)
    accuracies = np.array([_episode(values, members, ways, shots, queries, method, rng) for _ in range(episodes)])
    spread = accuracies.std(ddof=1) if episodes > 1 else 0.0
    return FewShotResult(float(accuracies.mean()), float(1.96 * spread / np.sqrt(episodes)), accuracies)


def _episode(
    values: np.ndarray,
    members: list[np.ndarray],
    ways: int,
    shots: int,
    queries: int,
    method: str,
    rng: np.random.Generator,
) -> float:
    support, asked, answers = [], [], []
    for way, which in enumerate(rng.choice(len(members), ways, replace=False)):
        drawn = rng.permutation(members[which])[: shots + queries]
        support.append(values[drawn[:shots]])
        asked.append(values[drawn[shots:]])
        answers += [way] * len(asked[-1])
    x = np.concatenate(asked)  # (Q, D)
    centroids = np.stack([rows.mean(axis=0) for rows in support])  # (ways, D)
    if method == "centroid":
        predicted = ((x[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    elif method == "logistic":
        predicted = _logistic(np.concatenate(support), np.repeat(np.arange(ways), shots), x)
    else:
        if method == "transport":
            passes, ratio = (5, 1.0) if shots == 1 else (1, 0.7)
            moved = transport_prototypes(torch.from_numpy(centroids), torch.from_numpy(x), passes=passes, ratio=ratio)
            centroids = moved.numpy()
        predicted = _logistic(centroids, np.arange(ways), x)
    return float((predicted == np.array(answers)).mean())


def _logistic(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(rows, labels).predict(asked)
