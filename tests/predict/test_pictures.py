"""Names of answer files: what an id says where it can, and never the same for two ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from counterpoint.predict.pictures import file_name


@pytest.mark.parametrize(
    ("identity", "wanted"),
    [("a.jpg", "a.jpg"), ("x/y.png", "x/y.png"), ("photo", "photo.enhanced.png"), ("Größe 1.jpeg", "Größe 1.jpeg")],
)
def test_plain_ids_are_file_names(identity: str, wanted: str) -> None:
    assert file_name(identity, added=".enhanced.png").as_posix() == wanted


@pytest.mark.parametrize("added", [".enhanced.png", ""])
def test_hostile_ids_stay_inside_and_apart(tmp_path: Path, added: str) -> None:
    hostile = ["../../a.png", "/etc/a.png", "a\0.png", "..", "", "a//b.png", "_/_/a.png", "con:1.png", "a_.png"]
    hostile += ["x" * 500, "x" * 501 + ".jpg", "é" * 200, "photo", "photo.enhanced.png", "photo.png", "a/.png", ".png"]
    paths = [file_name(identity, added=added) for identity in hostile]
    assert len({path.as_posix().lower() for path in paths}) == len(hostile)
    for path in paths:
        assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve())
        assert not path.is_absolute() and all(len(part.encode()) <= 255 for part in path.parts)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")


def test_without_an_ending_ids_stay_as_they_are() -> None:
    assert [file_name(name).as_posix() for name in ("validation/0000", "a.png", "b.bmp")] == [
        "validation/0000",
        "a.png",
        "b.bmp",
    ]
