r"""59,000 short texts of a user interface in English and 97 languages, parallel (Django's .po files).

Columns `text` (English), `translation`, `language` (Django's name of it: de, pt_BR, zh_Hans ...). Entries
that are empty, marked as doubtful, equal to the English, or have plural forms are left out; placeholders such
as %(name)s stay.

Splits: by a hash of the English text, about 80 % train, 10 % validation, 10 % test, so a sentence is on one
side in all languages. Many texts are a few words long, and languages differ in how much is translated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from counterpoint.data.package_rows import made_once
from counterpoint.data.packages import Package, PackageFiles, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

SPLITS = ("train", "validation", "test", "all")
NEEDS = (Package("django", "5.2.19", "django"),)
LICENCE = "BSD-3 (the django package)"

_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "translation", "language")])
_ENTRY = re.compile(
    r'(?m)^(?P<marks>(?:#.*\n)*)(?:msgctxt (?:".*"\n)+)?'
    r'msgid (?P<text>(?:".*"\n)+)msgstr (?P<said>(?:".*"(?:\n|$))+)'
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}


def rows(split: str) -> Rows:
    """Columns `text`, `translation`, `language`."""
    files = find_package(NEEDS[0])
    reader = made_once(f"ui-translations-{files.version}", _SCHEMA, lambda: _pairs(files))
    everything = Rows(reader, name=f"ui-translations:{split}")
    if split == "all":
        return everything
    texts = everything.column("text")
    sides = {text: hashed_split(f"ui/{text}", train=0.8, validation=0.1) for text in set(texts)}
    return everything.select(np.array([sides[text] == split for text in texts]))


def _pairs(files: PackageFiles) -> Iterator[dict[str, Any]]:
    seen: set[tuple[str, str, str]] = set()
    for name in files.names(ending=".po"):
        language = name.split("/")[-3]
        if language == "en":
            continue
        for number, found in enumerate(_ENTRY.finditer(files.read(name).decode("utf-8"))):
            text, translation = _joined(found["text"]), _joined(found["said"])
            key = (language, text, translation)
            if not text or not translation or text == translation or key in seen or "fuzzy" in found["marks"]:
                continue
            seen.add(key)
            place = name.removesuffix(".po").replace("/LC_MESSAGES", "")
            yield {"id": f"{place}/{number}", "text": text, "translation": translation, "language": language}


def _joined(quoted: str) -> str:
    """The text that the quoted pieces of a .po entry spell."""
    raw = "".join(_QUOTED.findall(quoted))
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), raw).strip()
