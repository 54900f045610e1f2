"""Pieces of OpenCV's films on films of their form, and on the package itself where it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import vtest
from counterpoint.data.packages import find_package
from counterpoint.data.videos import open_video
from films import film, number_of, numbered

PACKAGE = vtest.NEEDS[0]


@pytest.fixture
def package(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the package makes it, with small films; the library looks for the package there."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "vtest.avi").write_bytes(film(numbered(795), "avi", "mpeg4", rate=10, key_every=50))
    (folder / "tree.avi").write_bytes(film(numbered(68), "avi", "mpeg4", rate=15))
    monkeypatch.setattr(vtest, "NEEDS", (dataclasses.replace(PACKAGE, folder=str(folder)),))
    return folder


def test_pieces_and_splits(package: Path) -> None:
    parts = {split: open_rows(f"vtest:{split}") for split in ("train", "test", "all")}
    assert [len(parts[split]) for split in ("train", "test", "all")] == [31, 9, 40]
    ids = {split: set(rows.column("id")) for split, rows in parts.items()}
    assert not ids["train"] & ids["test"] and ids["train"] | ids["test"] == ids["all"]
    assert parts["train"].columns == ("video", "text", "film")
    row = parts["test"][3]
    assert row["id"] == "vtest/66" and row["text"] == "people walking across a street, seen from above"
    with open_video(row["video"]) as video:
        assert video.frames == 20
        assert [number_of(frame) for frame in video.read([0, 19])] == [660, 679]
    with open_video(parts["train"][30]["video"]) as video:
        assert (parts["train"].row_id(30), video.frames) == ("tree", 68)


def test_rows_do_not_depend_on_where_the_package_is(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_rows("vtest").fingerprint
    elsewhere = package.rename(package.with_name("elsewhere"))
    monkeypatch.setattr(vtest, "NEEDS", (dataclasses.replace(PACKAGE, folder=str(elsewhere)),))
    assert open_rows("vtest").fingerprint == before


def test_without_the_package(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vtest, "NEEDS", (dataclasses.replace(PACKAGE, folder="/nowhere"),))
    with pytest.raises(DataError, match="apt-get install opencv-doc"):
        open_rows("vtest")


def test_the_package_itself() -> None:
    try:
        find_package(PACKAGE)
    except DataError as error:
        pytest.skip(str(error))
    rows = open_rows("vtest:all")
    for name, frames, size in (("vtest/40", 20, (576, 768)), ("tree", 68, (240, 320))):
        row = rows[list(rows.column("id")).index(name)]
        with open_video(row["video"]) as video:
            assert video.frames == frames and (video.height, video.width) == size
            assert video.read([frames - 1]).std() > 10
