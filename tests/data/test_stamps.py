"""The reader of Tux Paint's stamps on a small tree of its form, and on the package itself where it is installed."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import BadRow, DataError, Rows, open_rows
from counterpoint.data.builtin import stamps
from counterpoint.data.images import decode, decode_mask
from counterpoint.data.packages import fetch, find_package

FROG = "A frog.\nde.utf8=Ein Frosch.\nfr.utf8=\nsr@latin.utf8= Žaba. \nnot a line\n"
PACKAGE = stamps.NEEDS[0]


def _png(mode: str = "RGBA", size: tuple[int, int] = (6, 4)) -> bytes:
    """A red square, opaque but for its left half."""
    picture = Image.new("RGBA", size, (200, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, size[0] // 2, size[1]))
    buffer = io.BytesIO()
    (picture if mode == "RGBA" else picture.convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the package makes it; the library looks for the package there."""
    root = tmp_path / "stamps"
    files = {
        "animals/frogs/frog.png": _png(),
        "animals/frogs/frog.txt": FROG.encode(),
        "animals/frogs/frog_desc.ogg": b"OggS english",
        "animals/frogs/frog_desc_de.ogg": b"OggS german",
        "animals/frogs/frog_desc_nl.ogg": b"OggS dutch",
        "animals/frogs/frog.ogg": b"OggS croak",
        "animals/frogs/frog_mirror.png": _png(),  # without a sentence
        "animals/toad.svg": b"<svg/>",
        "animals/toad.txt": b"A toad.",
        "food/pear.png": _png("RGB"),
        "food/pear.txt": "\ufeffA pear.\nde.utf8=Eine Birne.\n".encode(),
        "food/broken.png": _png()[:40],
        "food/broken.txt": b"Broken.",
        "food/silent.png": _png(),
        "food/silent.txt": b"\nde.utf8=Nur deutsch.\n",  # no English sentence
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.setattr(stamps, "NEEDS", (dataclasses.replace(PACKAGE, folder=str(root)),))
    return root


def _by_id(rows: Rows) -> dict[str, dict[str, object]]:
    return {rows.row_id(place): rows[place] for place in range(len(rows)) if "broken" not in rows.row_id(place)}


def test_one_row_a_picture_with_its_mask(tree: Path) -> None:
    rows = open_rows("stamps:all")
    found = _by_id(rows)
    assert set(rows.column("id")) == {"animals/frogs/frog", "food/pear", "food/broken"}
    frog = found["animals/frogs/frog"]
    assert (frog["text"], frog["language"], frog["topic"], frog["group"]) == ("A frog.", "en", "animals", "A frog.")
    assert np.asarray(decode(frog["image"]))[0, [0, 5]].tolist() == [[255, 255, 255], [200, 0, 0]]
    assert decode_mask(frog["mask"]).tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    assert found["food/pear"]["text"] == "A pear."
    assert decode_mask(found["food/pear"]["mask"]).tolist() == [[255] * 6] * 4
    assert list(rows.column("topic")) == ["animals", "food", "food"]


def test_columns_are_values_not_file_names(tree: Path) -> None:
    masks = list(open_rows("stamps:all").column("mask"))
    assert [None if mask is None else decode_mask(mask).shape for mask in masks] == [(4, 6), None, (4, 6)]
    assert set(open_rows("stamps:all-spoken").column("audio")) == {b"OggS english", b"OggS german", b"OggS dutch"}


def test_a_damaged_picture_is_one_bad_row(tree: Path) -> None:
    rows = open_rows("stamps:all")
    place = list(rows.column("id")).index("food/broken")
    with pytest.raises(BadRow):
        rows[place]
    assert [isinstance(row, BadRow) for row in rows.scan()].count(True) == 1


def test_one_row_a_sentence(tree: Path) -> None:
    found = _by_id(open_rows("stamps:all-captions"))
    assert {name: row["text"] for name, row in found.items()} == {
        "animals/frogs/frog:en": "A frog.",
        "animals/frogs/frog:de": "Ein Frosch.",
        "animals/frogs/frog:sr@latin": "Žaba.",
        "food/pear:en": "A pear.",
        "food/pear:de": "Eine Birne.",
    }
    assert {row["group"] for row in found.values()} == {"A frog.", "A pear."}


def test_one_row_a_recording(tree: Path) -> None:
    found = _by_id(open_rows("stamps:all-spoken"))
    assert {name: (row["audio"], row["text"]) for name, row in found.items()} == {
        "animals/frogs/frog:en": (b"OggS english", "A frog."),
        "animals/frogs/frog:de": (b"OggS german", "Ein Frosch."),
        "animals/frogs/frog:nl": (b"OggS dutch", "A frog."),
    }


def test_unpacked_into_the_cache_folder(tree: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = dataclasses.replace(PACKAGE, folder="/nowhere/stamps")
    monkeypatch.setattr(stamps, "NEEDS", (gone,))
    with pytest.raises(DataError, match="apt-get install tuxpaint-stamps-default"):
        open_rows("stamps")
    gone.unpacked().parent.mkdir(parents=True)
    tree.rename(gone.unpacked())
    assert own_cache in gone.unpacked().parents
    assert len(open_rows("stamps:all")) == 3


def test_absent_package_is_not_downloaded(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "NEEDS", (dataclasses.replace(PACKAGE, folder="/nowhere/stamps"),))
    with pytest.raises(DataError, match="get it with: apt-get install tuxpaint-stamps-default"):
        fetch(["stamps"])


def test_the_package_itself() -> None:
    try:
        find_package(PACKAGE)
    except DataError as error:
        pytest.skip(str(error))
    rows = open_rows("stamps:all")
    assert len(rows) > 700 and len(set(rows.column("topic"))) >= 10
    groups = [set(open_rows(f"stamps:{split}").column("group")) for split in ("train", "validation", "test")]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert len(set(open_rows("stamps:all-captions").column("language"))) > 60
    spoken = open_rows("stamps:validation-spoken")
    assert all(spoken[place]["audio"].startswith(b"OggS") for place in range(0, len(spoken), 50))
    for place in range(0, len(rows), 40):
        picture, mask = decode(rows[place]["image"]), decode_mask(rows[place]["mask"])
        assert mask.shape == picture.size[::-1] and set(np.unique(mask)) <= {0, 1, 255}
