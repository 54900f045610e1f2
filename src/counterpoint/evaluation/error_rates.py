"""Word and character error rates of transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counterpoint.evaluation.protocol import Measured, NotApplicable

__all__ = ["measured_error_rates"]


def measured_error_rates(said: Sequence[str], found: Sequence[str], **notes: Any) -> Measured:
    """`wer` and `cer` over all recordings together; a guesser says nothing, which is all deletions.

    Args:
        said: plain transcripts, none empty.
        found: what was written down for each, plain.
        notes: go beside the scores.

    Raises:
        NotApplicable: no transcripts, or jiwer is not installed.
    """
    if not said:
        raise NotApplicable("needs rows with a recording and words in its transcript")
    try:
        import jiwer
    except ImportError as error:
        raise NotApplicable("needs the package jiwer: pip install jiwer") from error
    words = jiwer.process_words(list(said), list(found))
    characters = jiwer.process_characters(list(said), list(found))
    scores = {"wer": float(words.wer), "cer": float(characters.cer)}
    counts = {name: int(getattr(words, name)) for name in ("substitutions", "deletions", "insertions", "hits")}
    return Measured(scores, dict.fromkeys(scores, 1.0), {"recordings": len(said), "words": counts, **notes})
