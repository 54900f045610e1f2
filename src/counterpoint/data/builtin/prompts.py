"""Human speech in five languages: the prompts of a telephone exchange with their words, 2,700 recordings of 2.2 hours.

Asterisk's core sounds, packages of Debian and its relatives, two for each language (`apt-get install
asterisk-core-sounds-en-wav asterisk-core-sounds-en`, and the same for es, fr, it and ru). 8,000 samples a second, one
speaker a language, so that who speaks and which language it is cannot be told apart. Columns:
    audio: wav.
    transcript: what is said, in the language; notes in brackets are removed. Some Italian ones hold "?" where an
        accented letter was lost.
    language: "en", "es", "fr", "it" or "ru"; `label` is its number.
    group: the name of the file, which says the same in every language. No split shares a group with another.

Splits, by a hash of the group (about 70 % train, 10 % validation, 20 % test):
    train, validation, test, all: recordings with words, of all languages.
    en-train, fr-all and so on: of one language.
    recordings, en-recordings and so on: everything of train, and what has no words (tones, silence, and files without a
        transcript, whose `transcript` is empty), for learning without transcripts.
Plain names ("train") need the packages of all languages, "en-train" those of one.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import Any

from counterpoint.data.errors import DataError
from counterpoint.data.package_rows import PackageReader
from counterpoint.data.packages import PackageFiles, SystemPackage, find_package
from counterpoint.data.rows import Rows, concatenate
from counterpoint.data.splits import hashed_split

VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
_PARTS = ("train", "validation", "test", "all", "recordings")
SPLITS = (*_PARTS, *(f"{language}-{part}" for language in VOICES for part in _PARTS))
_VERSION = "1.6.1-1"


def _sounds(language: str) -> SystemPackage:
    name = f"asterisk-core-sounds-{language}-wav"
    return SystemPackage(name, _VERSION, folder=f"/usr/share/asterisk/sounds/{VOICES[language]}")


def _words(language: str) -> SystemPackage:
    name = f"asterisk-core-sounds-{language}"
    return SystemPackage(name, _VERSION, folder=f"/usr/share/doc/{name}")


NEEDS = tuple(package(language) for language in VOICES for package in (_sounds, _words))
LICENCE = "CC-BY-SA-3.0 (the Asterisk core sounds; the Russian ones CC-BY-3.0)"

_NOTE = re.compile(r"[\[(][^\])]*[\])]")
"""What a sound is called where there are no words, "[ascending tones]", and notes: "at [@]", "Pour (emphase)"."""

_SOUNDS = ("beep", "beeperr", "tt-monkeys")
"""Files without words that a language describes without brackets."""


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring.

    Raises:
        DataError: a package is not there; gives the command for it.
    """
    language, _, part = split.rpartition("-")
    parts = [_of_language(name, part) for name in ([language] if language else VOICES)]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _of_language(language: str, part: str) -> Rows:
    words = _needed(f"asterisk-core-sounds-{language}")
    files = find_package(_needed(f"{words.name}-wav"))
    transcripts = _transcripts(find_package(words), words, language)
    found = [row for row in _all_rows(files, transcripts, language) if _belongs(row, part)]
    return Rows(PackageReader(files, found, media="audio"), name=f"prompts:{language}-{part}", class_names=list(VOICES))


def _needed(name: str) -> SystemPackage:
    return next(package for package in NEEDS if package.name == name)


def _all_rows(files: PackageFiles, transcripts: dict[str, str], language: str) -> Iterator[dict[str, Any]]:
    for name in files.names(ending=".wav"):
        key = name.removesuffix(".wav")
        text = "" if key in _SOUNDS else transcripts.get(key, "")
        yield {
            "id": f"{language}/{key}",
            "audio": name,
            "transcript": text,
            "language": language,
            "label": list(VOICES).index(language),
            "group": key,
        }


def _belongs(row: dict[str, Any], part: str) -> bool:
    split = hashed_split(f"prompts/{row['group']}", train=0.7, validation=0.1)
    if part == "recordings":
        return split == "train" or not row["transcript"]
    return bool(row["transcript"]) and part in (split, "all")


def _transcripts(files: PackageFiles, package: SystemPackage, language: str) -> dict[str, str]:
    """File name without ending -> words; lines are "name: words", and comments begin with a semicolon."""
    name = f"core-sounds-{language}.txt.gz"
    if files.folder == package.unpacked() or (files.folder is not None and (files.folder / name).is_file()):
        content = files.read(name)
    elif (package.unpacked() / name).is_file():  # systems that install no documentation have an empty folder
        content = (package.unpacked() / name).read_bytes()
    else:
        raise DataError(
            f"{package.name} is installed without its documentation, where the transcripts are; unpack it as well: "
            f"apt-get download {package.name} && dpkg -x {package.name}_*.deb {package.unpacked().parents[3]}"
        )
    lines = gzip.decompress(content).decode("utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if not line.lstrip().startswith(";"))
    return {key.strip(): _NOTE.sub("", text).strip() for key, colon, text in pairs if colon}
