"""How far what a model writes down is from what was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from counterpoint.data import BadRow
from counterpoint.evaluation.error_rates import measured_error_rates
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task
from counterpoint.views.transcripts import plain_transcript

__all__ = ["Transcription"]


@dataclass(frozen=True)
class Transcription(Protocol):
    """Word and character error rates of the model's transcripts, over all rows together.

    Insertions, deletions and substitutions of the cheapest way from one to the other, divided by the words or
    characters of the column `transcript`. Both sides are brought into plain form first (lower case, no punctuation, see
    `plain_transcript`). Rows without words are left out.
    """

    columns: ClassVar[tuple[str, ...]] = ("audio", "transcript")

    def run(self, task: Task) -> Measured:
        """`wer` and `cer`; a guesser says nothing, which is all deletions."""
        if not hasattr(task.system, "transcribe"):
            raise NotApplicable("needs a model that transcribes (method transcribe)")
        said, found = [], []
        for position, row in enumerate(task.rows.scan()):
            try:
                if isinstance(row, BadRow):
                    raise row
                words = plain_transcript(row["transcript"] or "")
                if words:
                    (answer,) = task.system.transcribe([row])
                    found.append(plain_transcript(answer["text"]))
                    said.append(words)
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
        return measured_error_rates(said, found)
