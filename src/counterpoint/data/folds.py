"""Features and labels for estimators: checks at the door, folds where there is no validation split, one weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_labels", "grouped_folds", "search_alpha", "unit_rows"]


def unit_rows(name: str, features: Tensor) -> Tensor:
    """(N, D) -> rows of unit length in double precision: half-precision covariances are useless.

    Raises:
        TypeError: not floating point.
        ValueError: not (N, D), no rows, or a value that is not finite; says in which row.
    """
    if not features.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {features.dtype}")
    if features.dim() != 2 or len(features) == 0:
        raise ValueError(f"{name} must be (N, D) with at least one row, got {tuple(features.shape)}")
    broken = ~features.isfinite().all(dim=1)
    if bool(broken.any()):
        raise ValueError(f"{name}: row {int(broken.nonzero()[0])} is not finite; leave such rows out")
    return torch.nn.functional.normalize(features.detach().double(), dim=1)


def check_labels(features: Tensor, labels: Tensor, classes: int | None = None) -> Tensor:
    """(K,) rows of each class, for labels (N,) in [0, K); K is `classes`, or the largest label plus one.

    Raises:
        TypeError: labels that are not integers.
        ValueError: another number of labels than rows, or a label outside the classes.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be one a row: {tuple(labels.shape)} for features {tuple(features.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        raise ValueError(f"labels must lie in 0..{high if classes is None else classes - 1}, got {low}..{high}")
    return labels.bincount(minlength=classes or 0)


def grouped_folds(labels: Tensor, groups: Tensor | None = None, *, folds: int = 5) -> Tensor:
    """The fold in which each row is held out, or -1 for rows that are never held out.

    Rows of one group (augmented copies of one image) share a fold, the groups of a class are dealt to the
    folds in turn, and a class with a single group is never held out: what remains has a row of every class.

    Args:
        labels: (N,) integers; rows of one group must have the same.
        groups: (N,) integers; every row is a group of its own by default.
        folds: how many at most.

    Returns:
        (N,) int64 on the device of `labels`, all -1 when no class has two groups.

    Raises:
        ValueError: fewer than two folds, or another number of groups than labels.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    if groups is None:
        groups = torch.arange(len(labels))
    if groups.shape != labels.shape:
        raise ValueError(f"groups must name the group of each row: {tuple(groups.shape)} for {len(labels)} labels")
    members: dict[int, dict[int, int]] = defaultdict(dict)  # class -> group -> number within the class
    for label, group in zip(labels.tolist(), groups.tolist(), strict=True):
        members[label].setdefault(group, len(members[label]))
    fold = [
        members[label][group] % folds if len(members[label]) > 1 else -1
        for label, group in zip(labels.tolist(), groups.tolist(), strict=True)
    ]
    return torch.tensor(fold, dtype=torch.int64, device=labels.device)


def search_alpha(
    text_logits: Tensor, head_logits: Tensor, labels: Tensor, alphas: Sequence[float]
) -> tuple[float, float]:
    """(alpha, accuracy in [0, 1]) of the best text + alpha head logits (N, K); first best wins, else 0.1."""
    best, top = 0.1, 0.0
    for alpha in alphas:
        accuracy = float(((text_logits + alpha * head_logits).argmax(dim=1) == labels).double().mean())
        if accuracy > top:
            best, top = alpha, accuracy
    return best, top
