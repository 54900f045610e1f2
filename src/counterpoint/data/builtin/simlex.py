"""999 pairs of English words with human judgements of how alike their meanings are (SimLex-999, 2015).

Likeness, not relatedness: "cup" and "coffee" score low. `score` is between 0 and 10. One split, `test`: there
is nothing to train on.
"""

from __future__ import annotations

from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.word_pairs import word_pairs

SPLITS = ("test",)
NEEDS = (Package("gensim", "4.4.0", "gensim"),)
LICENCE = "LGPL-2.1 (the gensim package); judgements: F. Hill, R. Reichart, A. Korhonen, 2015"


def rows(split: str) -> Rows:
    """Columns `text`, `other`, `score`."""
    content = find_package(NEEDS[0]).read("test/test_data/simlex999.txt")
    return Rows.from_list(word_pairs(content), name="simlex")
