"""Average precision of boxes by the distance of their centres, seen from above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["average_precision", "matched"]


def matched(found: np.ndarray, scores: np.ndarray, true: np.ndarray, distance: float) -> np.ndarray:
    """Which answers for one cloud hit a thing: in the order of their scores, each takes the nearest thing left.

    Args:
        found: (M, 2) centres of answers, of one class.
        scores: (M,); equal ones keep their order.
        true: (T, 2) centres of things of that class.
        distance: metres; a centre must be nearer.

    Returns:
        (M,) of bool, in the order given.
    """
    hits = np.zeros(len(found), dtype=bool)
    left = np.ones(len(true), dtype=bool)
    for number in np.argsort(-scores, kind="stable"):
        if not left.any():
            break
        away = np.where(left, np.hypot(*(true - found[number]).T), np.inf)
        nearest = int(away.argmin())
        if away[nearest] < distance:
            hits[number], left[nearest] = True, False
    return hits


def average_precision(hits: Sequence[np.ndarray], scores: Sequence[np.ndarray], things: int) -> float:
    """Area under precision over recall, of the answers of all clouds together.

    Precision at a recall is the best one at that recall or above (PASCAL VOC 2010). Answers with equal scores come
    together: the order of clouds does not matter. nuScenes' own figure leaves out recall and precision below 0.1.

    Args:
        hits: for each cloud (M,) of bool.
        scores: for each cloud (M,).
        things: in all clouds.

    Returns:
        In [0, 1]; NaN where there is no thing.
    """
    if not things:
        return float("nan")
    hit, score = np.concatenate([*hits, np.zeros(0, bool)]), np.concatenate([*scores, np.zeros(0)])
    if not hit.any():
        return 0.0
    order = np.argsort(-score, kind="stable")
    hit, score = hit[order], score[order]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True))  # of every group of equal scores
    right, answers = hit.cumsum()[last], np.arange(1, len(hit) + 1)[last]
    recall, precision = right / things, right / answers
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * best).sum())
