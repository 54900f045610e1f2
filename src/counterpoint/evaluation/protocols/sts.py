"""Semantic textual similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.sts import sts_spearman
from counterpoint.evaluation.task import Task

__all__ = ["Sts"]


@dataclass(frozen=True)
class Sts(Protocol):
    """Spearman correlation between the model's similarity of `text` and `other` and the human `score`.

    Over all pairs together, as papers report it; with a `subset` column also per subset and both means.
    """

    columns: ClassVar[tuple[str, ...]] = ("text", "other", "score")

    def run(self, task: Task) -> Measured:
        """Correlations in [-1, 1]; a guesser has 0."""
        wanted = ["text", "other", "score"] + (["subset"] if "subset" in task.rows.columns else [])
        pairs = list(zip(*(task.rows.column(name) for name in wanted), strict=True))
        pairs = [pair for pair in pairs if None not in pair]
        if len(pairs) < 2:
            raise NotApplicable(f"needs at least two pairs with a score, found {len(pairs)}")
        distinct = list(dict.fromkeys(text for pair in pairs for text in pair[:2]))
        place = {text: number for number, text in enumerate(distinct)}
        vectors = task.texts(distinct, key="sts")
        first, second = (torch.tensor([place[pair[side]] for pair in pairs]) for side in (0, 1))
        predicted = task.pair_scores(vectors, first, second)
        subsets = [pair[3] for pair in pairs] if len(wanted) > 3 else None
        found = sts_spearman(predicted.double().numpy(), [float(pair[2]) for pair in pairs], subsets)
        scores = {"spearman": found.all}
        if subsets is not None:
            scores |= {"spearman_mean": found.mean, "spearman_weighted_mean": found.weighted_mean}
            scores |= {f"spearman_{name}": value for name, value in found.per_subset.items()}
        return Measured(scores, dict.fromkeys(scores, 0.0), {"pairs": len(pairs)})
