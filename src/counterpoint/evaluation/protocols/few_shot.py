"""Few-shot episodes drawn from the scored rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from counterpoint.evaluation.few_shot import FewShotMethod, few_shot_accuracy
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task

__all__ = ["FewShot"]


@dataclass(frozen=True)
class FewShot(Protocol):
    """N-way k-shot episodes; the shots and the queries both come from the scored rows.

    Attributes:
        ways: classes an episode; all of them where there are fewer.
        shots: labelled rows a class, one setting after the other; those with too few rows a class are left
            out.
        queries: rows a class that are classified.
        episodes: how many.
        method: "centroid", "logistic", "prototype" or "transport"; see `few_shot_accuracy`.
    """

    columns: ClassVar[tuple[str, ...]] = ("label",)

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    episodes: int = 600
    method: FewShotMethod = "centroid"

    def run(self, task: Task) -> Measured:
        """Accuracy and the half width of its 95 % interval for each number of shots."""
        vectors, labels = task.labelled()
        sizes = labels.bincount()
        scores: dict[str, float] = {}
        chance: dict[str, float] = {}
        notes: dict[str, int] = {}
        for shots in self.shots:
            ways = min(self.ways, int((sizes > shots).sum()))
            if ways < 2:
                continue
            found = few_shot_accuracy(
                vectors,
                labels,
                ways=ways,
                shots=shots,
                queries=self.queries,
                episodes=self.episodes,
                method=self.method,
                seed=task.seed,
            )
            name = f"{shots}_shot_accuracy"
            scores[name], scores[f"{name}_interval"] = found.accuracy, found.interval
            chance[name], notes[f"{shots}_shot_ways"] = 1 / ways, ways
        if not scores:
            raise NotApplicable(f"needs two classes with more than {min(self.shots)} labelled rows each")
        return Measured(scores, chance, notes)
