"""353 pairs of English words with the mean of human judgements of how related they are (WordSim-353, 2002).

Relatedness, not likeness of meaning: "cup" and "coffee" score high. `score` is between 0 and 10. One split,
`test`: there is nothing to train on.
"""

from __future__ import annotations

from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.word_pairs import word_pairs

SPLITS = ("test",)
NEEDS = (Package("gensim", "4.4.0", "gensim"),)
LICENCE = "LGPL-2.1 (the gensim package); judgements: L. Finkelstein et al., 2002"


def rows(split: str) -> Rows:
    """Columns `text`, `other`, `score`."""
    content = find_package(NEEDS[0]).read("test/test_data/wordsim353.tsv")
    return Rows.from_list(word_pairs(content), name="wordsim")
