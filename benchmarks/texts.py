"""Texts that packages bring: mixed lengths, many of them, the same on every machine that has the packages."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Iterator

import numpy as np

from counterpoint.data import DataError, open_rows
from counterpoint.data.packages import SystemPackage, find_package

WORDNET = SystemPackage("wordnet-base", "3.0", folder="/usr/share/wordnet")
FOLDOC = SystemPackage("dict-foldoc", "20230119", folder="/usr/share/dictd")
LONGEST = 2000
"""Characters of a text; MiniLM reads 256 tokens."""


def mixed(count: int) -> list[str]:
    """Texts of one to several hundred words: news whole, their sentences, and phrases of a user interface."""
    documents, sentences = ([str(row["text"]) for row in open_rows(name)] for name in ("lee:documents", "lee:train"))
    phrases = sorted({str(text) for text in open_rows("ui-translations:train").column("text")})
    rng = np.random.default_rng(0)
    # A fifth long, half sentences, the rest short; in random order, as texts arrive.
    wanted = (count // 5, count // 2, count - count // 5 - count // 2)
    chosen: list[str] = []
    for texts, number in zip((documents, sentences, phrases), wanted, strict=True):
        chosen += [texts[place] for place in rng.choice(len(texts), number, replace=number > len(texts))]
    return [chosen[place] for place in rng.permutation(len(chosen))]


def collection() -> tuple[list[str], dict[str, int]]:
    """Every distinct text that the packages hold, in a fixed random order, and how many each source gave first.

    Sources: WordNet (words with their gloss, and its examples), FOLDOC's definitions, an interface in 98 languages, the
    names of emoji in all languages of their package, news. A source that is not there is left out, with a 0.
    """
    found: dict[str, None] = {}
    counts: dict[str, int] = {}
    sources = {"WordNet": _wordnet, "FOLDOC": _foldoc, "interface": _interface, "emoji names": _emoji, "news": _news}
    for name, read in sources.items():
        before = len(found)
        try:
            for text in read():
                text = re.sub(r"\s+", " ", text).strip()[:LONGEST]
                if text:
                    found.setdefault(text)
        except DataError:
            pass  # said by the count of 0; `make bench` prints how to get it
        counts[name] = len(found) - before
    texts = list(found)
    return [texts[place] for place in np.random.default_rng(0).permutation(len(texts))], counts


def _wordnet() -> Iterator[str]:
    files = find_package(WORDNET)
    for kind in ("noun", "verb", "adj", "adv"):
        for line in files.read(f"data.{kind}").decode("utf-8", "replace").splitlines():
            if line.startswith(" ") or "|" not in line:
                continue  # the licence at the top
            fields, _, gloss = line.partition("|")
            parts = fields.split()
            words = [parts[4 + 2 * place].replace("_", " ") for place in range(int(parts[3], 16))]
            definition, *examples = re.split(r';?\s*"', gloss.strip())
            yield f"{', '.join(words)}: {definition.strip('; ')}"
            yield from (example for example in examples if len(example) > 8)


def _foldoc() -> Iterator[str]:
    text = gzip.decompress(find_package(FOLDOC).read("foldoc.dict.dz")).decode("utf-8", "replace")
    yield from re.split(r"\n(?=\S)", text)


def _interface() -> Iterator[str]:
    rows = open_rows("ui-translations:all")
    for column in ("text", "translation"):
        yield from map(str, rows.column(column))


def _emoji() -> Iterator[str]:
    import emoji

    for language in emoji.LANGUAGES:
        emoji.config.load_language(language)
    for names in emoji.EMOJI_DATA.values():
        for language in emoji.LANGUAGES:
            if language in names:
                yield str(names[language]).strip(":").replace("_", " ")


def _news() -> Iterator[str]:
    for name in ("lee:documents", "lee:train", "lee:test-documents"):
        yield from map(str, open_rows(name).column("text"))


def get_packages() -> None:
    """Put the two system packages into the cache folder where they can be had; says what cannot."""
    from counterpoint.data.packages import _unpack  # `fetch` knows the packages of built-in sets alone

    for package in (WORDNET, FOLDOC):
        try:
            find_package(package)
        except DataError:
            try:
                _unpack(package)
            except DataError as error:
                print(f"{error}: its texts are left out", file=sys.stderr)


if __name__ == "__main__":
    get_packages()
