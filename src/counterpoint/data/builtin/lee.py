"""Short Australian news texts: 300 to learn from, and 50 whose likeness people have judged (Lee, Pincombe,
Welsh 2005).

Splits:
    train: the sentences of the 300 background texts, each once, with the number of their text in `group`.
    documents: the 300 background texts whole.
    test: all 1,225 pairs of the 50 texts: `text`, `other`, `score` in [0, 1]. The file of scores carries no
        description of its own; it is taken to be the mean human judgement.
    test-documents: the 50 texts.
    search: the 348 of these 350 texts that have several sentences: all but the first (`text`, and again
        `positive`), and the first (`query`): a corpus to learn from, with queries that learning never sees.
Nothing is held out of `train` for validation: there are no judgements for it.
"""

from __future__ import annotations

import re

import numpy as np

from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows

SPLITS = ("train", "documents", "test", "test-documents", "search")
NEEDS = (Package("gensim", "4.4.0", "gensim"),)
LICENCE = "LGPL-2.1 (the gensim package); texts: Australian Broadcasting Corporation news mail, 2000 to 2002"

_FOLDER = "test/test_data"
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    files = find_package(NEEDS[0])
    name = f"lee:{split}"
    if split in ("train", "documents", "search"):
        texts = _lines(files.read(f"{_FOLDER}/lee_background.cor").decode("utf-8"))
        if split == "search":
            texts += _lines(files.read(f"{_FOLDER}/lee.cor").decode("latin-1"))
            return Rows.from_list(_first_sentences(texts), name=name)
        if split == "documents":
            return Rows.from_list([{"id": f"{n:03d}", "text": text} for n, text in enumerate(texts)], name=name)
        return Rows.from_list(_sentences(texts), name=name)
    texts = _lines(files.read(f"{_FOLDER}/lee.cor").decode("latin-1"))
    if split == "test-documents":
        return Rows.from_list([{"id": f"{n:02d}", "text": text} for n, text in enumerate(texts)], name=name)
    table = files.read(f"{_FOLDER}/similarities0-1.txt").decode().split()
    scores = np.array(table, dtype=np.float64).reshape(len(texts), len(texts))  # (50, 50), upper triangle
    pairs = [
        {"id": f"{a:02d}-{b:02d}", "text": texts[a], "other": texts[b], "score": float(scores[a, b])}
        for a in range(len(texts))
        for b in range(a + 1, len(texts))
    ]
    return Rows.from_list(pairs, name=name)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _sentences(texts: list[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    seen: set[str] = set()
    for number, text in enumerate(texts):
        for place, sentence in enumerate(_SENTENCE_END.split(text)):
            if len(sentence.split()) < 4 or sentence in seen:
                continue
            seen.add(sentence)
            found.append({"id": f"{number:03d}-{place:02d}", "text": sentence, "group": f"{number:03d}"})
    return found


def _first_sentences(texts: list[str]) -> list[dict[str, str]]:
    """One row for every text of at least two sentences."""
    parts = [(number, _SENTENCE_END.split(text, maxsplit=1)) for number, text in enumerate(texts)]
    return [
        {"id": f"{number:03d}", "query": part[0], "positive": part[1], "text": part[1]}
        for number, part in parts
        if len(part) == 2
    ]
