"""Few-shot episodes with and without prototypes moved onto the queries (OpTA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from counterpoint.evaluation.protocol import Measured, Protocol
from counterpoint.evaluation.protocols.few_shot import FewShot
from counterpoint.evaluation.task import Task

__all__ = ["FewShotTransport"]


@dataclass(frozen=True)
class FewShotTransport(Protocol):
    """The same episodes twice: class prototypes as they are, and transported (arXiv 2402.02444).

    The transported ones see all queries of an episode together; that is another task than the usual one.

    Attributes:
        ways, shots, queries, episodes: as in `few_shot`.
    """

    columns: ClassVar[tuple[str, ...]] = ("label",)
    default: ClassVar[bool] = False

    ways: int = 5
    shots: tuple[int, ...] = (1, 5)
    queries: int = 15
    episodes: int = 600

    def run(self, task: Task) -> Measured:
        """`<k>_shot_accuracy` as `few_shot` has it, `<k>_shot_transported`, and `<k>_shot_gain`, their difference."""
        plain, moved = (
            FewShot(self.ways, self.shots, self.queries, self.episodes, method).run(task)
            for method in ("prototype", "transport")
        )
        scores, chance = dict(plain.scores), dict(plain.chance)
        for name, value in plain.chance.items():
            setting = name.removesuffix("_accuracy")
            scores[f"{setting}_transported"], chance[f"{setting}_transported"] = moved.scores[name], value
            scores[f"{setting}_transported_interval"] = moved.scores[f"{name}_interval"]
            scores[f"{setting}_gain"] = moved.scores[name] - plain.scores[name]
        return Measured(scores, chance, plain.notes)
