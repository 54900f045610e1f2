"""The reader of Asterisk's prompts on a small tree of its form, and on the packages themselves where they are."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import prompts
from counterpoint.data.packages import SystemPackage, find_package
from counterpoint.data.recordings import duration

ENGLISH = """; a comment: with a colon

activated: Activated.
letters/at: at [@]
agent-pass: Please enter: your password
beep: [this is a beep]
beeperr: an error beep
unrecorded: Nobody said this.
empty:
not a line
"""


@pytest.fixture
def tree(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """English and French as their packages lay them out; the library looks for the packages there."""
    words = {"en": ENGLISH, "fr": "\ufeff; French\nactivated: activ\u00e9\nfor: Pour (emphase)\n"}
    names = ("activated", "letters/at", "agent-pass", "beep", "beeperr", "untold", "silence/1", "empty")
    sounds = {"en": names, "fr": ("activated", "for")}
    needs = []
    for language, text in words.items():
        voice = tmp_path / "sounds" / prompts.VOICES[language]
        for name in sounds[language]:
            (voice / name).parent.mkdir(parents=True, exist_ok=True)
            (voice / f"{name}.wav").write_bytes(f"RIFF {language} {name}".encode())
        notes = tmp_path / "doc" / language
        notes.mkdir(parents=True)
        (notes / f"core-sounds-{language}.txt.gz").write_bytes(gzip.compress(text.encode()))
        for package, folder in ((prompts._sounds(language), voice), (prompts._words(language), notes)):
            needs.append(dataclasses.replace(package, folder=str(folder)))
    monkeypatch.setattr(prompts, "NEEDS", tuple(needs))
    monkeypatch.setattr(prompts, "VOICES", {language: prompts.VOICES[language] for language in words})
    return tmp_path


def test_recordings_with_words(tree: Path) -> None:
    rows = open_rows("prompts:en-all")
    assert {row["id"]: row["transcript"] for row in rows} == {
        "en/activated": "Activated.",
        "en/letters/at": "at",
        "en/agent-pass": "Please enter: your password",
    }
    assert rows[0]["audio"] == b"RIFF en activated" and rows[0]["language"] == "en"
    assert {row["transcript"] for row in open_rows("prompts:fr-all")} == {"activ\u00e9", "Pour"}


def test_all_languages_together(tree: Path) -> None:
    rows = open_rows("prompts:all")
    assert sorted(rows.column("id")) == [
        *("en/activated", "en/agent-pass", "en/letters/at", "fr/activated", "fr/for"),
    ]
    assert rows.class_names == ["en", "fr"]
    assert [row["label"] for row in rows] == [["en", "fr"].index(row["language"]) for row in rows]


def test_everything_of_train_and_what_has_no_words(tree: Path) -> None:
    found = {row["id"]: row["transcript"] for row in open_rows("prompts:en-recordings")}
    silent = {"en/beep", "en/beeperr", "en/untold", "en/silence/1", "en/empty"}
    assert {name for name, text in found.items() if not text} == silent
    assert set(found) - silent <= set(open_rows("prompts:en-all").column("id"))


def test_absent_packages_are_named_with_their_command(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english = [need for need in prompts.NEEDS if need.name.startswith("asterisk-core-sounds-en")]
    gone = [dataclasses.replace(need, folder="/nowhere") for need in english if need.name.endswith("-wav")]
    monkeypatch.setattr(prompts, "NEEDS", (*gone, *prompts.NEEDS))
    with pytest.raises(DataError, match="apt-get install asterisk-core-sounds-en-wav"):
        open_rows("prompts:en-all")
    assert len(open_rows("prompts:fr-all")) == 2, "other languages need other packages"


def test_a_system_without_documentation(tree: Path) -> None:
    (words,) = (need for need in prompts.NEEDS if need.name == "asterisk-core-sounds-en")
    file = Path(words.folder) / "core-sounds-en.txt.gz"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DataError, match="without its documentation.*apt-get download asterisk-core-sounds-en"):
        open_rows("prompts:en-all")
    words.unpacked().mkdir(parents=True)
    (words.unpacked() / file.name).write_bytes(content)
    assert len(open_rows("prompts:en-all")) == 3


def test_splits_and_needs() -> None:
    assert prompts.SPLITS[0] == "train" and "ru-validation" in prompts.SPLITS and len(prompts.SPLITS) == 30
    assert all(isinstance(need, SystemPackage) for need in prompts.NEEDS) and len(prompts.NEEDS) == 10


def test_the_packages_themselves() -> None:
    try:
        for need in prompts.NEEDS:
            find_package(need)
        counts = {language: len(open_rows(f"prompts:{language}-all")) for language in prompts.VOICES}
    except DataError as error:
        pytest.skip(str(error))
    assert counts == {"en": 553, "es": 477, "fr": 509, "it": 580, "ru": 556}
    groups = [set(open_rows(f"prompts:{split}").column("group")) for split in ("train", "validation", "test")]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    recordings = open_rows("prompts:recordings")
    assert set(recordings.column("group")) & groups[2] == set() or all(
        not row["transcript"] for row in recordings if row["group"] in groups[2]
    )
    minutes = sum(duration(row["audio"]) for row in open_rows("prompts:en-all")) / 60
    assert 20 < minutes < 30
