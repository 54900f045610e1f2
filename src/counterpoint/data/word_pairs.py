"""The file format of word pairs with human scores that several sets share."""

from __future__ import annotations

from typing import Any

__all__ = ["word_pairs"]


def word_pairs(content: bytes) -> list[dict[str, Any]]:
    """Rows `id`, `text`, `other`, `score` from lines of word, word, score parted by tabs; # is a comment."""
    lines = [line for line in content.decode("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    found = []
    for number, line in enumerate(lines):
        first, second, score = line.split("\t")
        found.append({"id": f"{number:03d}", "text": first, "other": second, "score": float(score)})
    return found
