"""The right caption of a picture among distractors that were made for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task

__all__ = ["CaptionChoice"]


@dataclass(frozen=True)
class CaptionChoice(Protocol):
    """Each picture against its caption (`text`) and its `distractors`, a list of wrong captions.

    With distractors that swap attributes it shows whether a model binds words to each other, not only finds them.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "text", "distractors")

    def run(self, task: Task) -> Measured:
        """Share of pictures whose own caption scores strictly highest; a tie is wrong."""
        vectors = task.test_vectors()
        if not {"image", "text"} <= set(vectors.spaces):
            raise NotApplicable("needs a model with an image and a text space")
        texts, distractors = task.rows.column("text"), task.rows.column("distractors")
        wanted = list(dict.fromkeys(caption for row in distractors for caption in row or []))
        if not wanted:
            raise NotApplicable("no row has distractors")
        others = task.texts(wanted, key="distractors", space="text")
        place, score = {caption: number for number, caption in enumerate(wanted)}, task.score()
        hits, chance = [], []
        for row, position in enumerate(vectors.positions.tolist()):
            rivals = [place[caption] for caption in distractors[position] or [] if caption != texts[position]]
            if not rivals:
                continue
            image = vectors.spaces["image"][row, None]
            own = float(score(image, vectors.spaces["text"][row, None]))
            hits.append(own > float(score(image, others[rivals]).max()))
            chance.append(1 / (1 + len(rivals)))
        return Measured(
            {"accuracy": sum(hits) / len(hits)},
            {"accuracy": sum(chance) / len(chance)},
            {"rows": len(hits), "distractors": sum(1 / share - 1 for share in chance)},
        )
