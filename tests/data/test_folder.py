from __future__ import annotations

import os
import pickle
import sys
import tracemalloc
from pathlib import Path

import pytest
from pictures import encoded, plain, quarters

from counterpoint.data import DataError, open_rows
from counterpoint.data.folder import FolderReader
from counterpoint.data.images import decode


def write(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(plain(number) if not name.endswith(".txt") else name.encode())
    return folder


def test_flat_folder(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path, "b.jpg", "a.JPEG", "deep/er/c.png"))
    assert rows.column("id") == ["a.JPEG", "b.jpg", "deep/er/c.png"]
    assert rows.columns == ("image",) and rows.class_names is None
    assert all(decode(row["image"]).size == (12, 12) for row in rows)


def test_class_folders(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path, "dog/1.jpg", "cat/1.jpg", "cat/more/2.jpg", "ape/1.jpg"))
    assert rows.class_names == ["ape", "cat", "dog"]
    assert rows.column("label") == [row["label"] for row in rows] == [0, 1, 1, 2]


def test_other_media(tmp_path: Path) -> None:
    clips = open_rows(write(tmp_path / "clips", "a.mp4", "a.txt", "b.webm", "b.txt"))
    assert clips.columns == ("video", "text") and clips[1]["text"] == "b.txt"
    speech = open_rows(write(tmp_path / "speech", "a.wav", "a.txt", "b.FLAC", "b.txt", "c.ogg"))
    assert speech.columns == ("audio", "transcript") and speech[0]["transcript"] == "a.txt"
    assert speech.skipped == [("c.ogg", "no caption beside it")]
    for name in ("road/a.bin", "road/b.npy", "yard/c.ply"):
        path = tmp_path / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(32))
    scans = open_rows(write(tmp_path / "scans", "readme.txt"))
    assert scans.columns == ("points", "label") and scans.class_names == ["road", "yard"]
    mixed = open_rows(write(tmp_path / "mixed", "a.jpg", "features.npy"))
    assert mixed.columns == ("image",) and len(mixed) == 1, "arrays beside pictures are no clouds"


def test_one_folder_or_a_stray_picture_is_no_class(tmp_path: Path) -> None:
    assert open_rows(write(tmp_path / "one", "2019/1.jpg", "2019/2.jpg")).class_names is None
    assert open_rows(write(tmp_path / "stray", "cat/1.jpg", "dog/1.jpg", "3.jpg")).class_names is None


def test_split_folders(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "val/dog/4.jpg", "Test/cat/5.jpg")
    assert open_rows(tmp_path).column("id") == ["cat/1.jpg", "dog/2.jpg"]
    assert open_rows(tmp_path, split="validation").column("label") == [0, 1]
    assert open_rows(tmp_path, split="test").column("id") == ["cat/5.jpg"]
    assert len(open_rows(tmp_path, split="all")) == 5
    with pytest.raises(DataError, match="no split 'dev2'; found: test, train, validation"):
        open_rows(tmp_path, split="dev2")
    with pytest.raises(DataError, match="no split folders"):
        open_rows(tmp_path / "train", split="test")


def test_captions_beside_pictures(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path, "a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg"))
    assert rows.columns == ("image", "text") and rows.column("text") == ["a.txt", "b.txt"]
    assert rows.skipped == [("c.jpg", "no caption beside it")]
    few = open_rows(write(tmp_path / "few", "a.jpg", "a.txt", "b.jpg", "c.jpg"))
    assert few.columns == ("image",) and len(few) == 3


def test_content_decides_where_the_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "no-ending").write_bytes(plain(0))
    (tmp_path / "odd.data").write_bytes(encoded(quarters(), "WEBP"))
    (tmp_path / "noise.data").write_bytes(b"neither")
    (tmp_path / "notes.md").write_text("not listed")
    (tmp_path / ".hidden.jpg").write_bytes(plain(1))
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "x.jpg").write_bytes(b"resource fork")
    rows = open_rows(tmp_path)
    assert rows.column("id") == ["no-ending", "odd.data"]
    assert rows.skipped == [("noise.data", "not a picture")]


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system refuses such names")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xfe bad.jpg")).write_bytes(plain(0))
    (tmp_path / "line\nbreak.jpg").write_bytes(plain(1))
    rows = open_rows(tmp_path)
    assert sorted(rows.column("id"))[1] == "line\nbreak.jpg"
    for row in rows:
        row["id"].encode("utf-8")
        assert decode(row["image"]).size == (12, 12)


def test_links_loops_and_pipes(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "same.jpg").symlink_to(tmp_path / "a" / "1.jpg")
    (tmp_path / "b" / "dead.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "b" / "pipe.jpg")
    rows = open_rows(tmp_path)
    assert rows.column("id") == ["a/1.jpg", "b/2.jpg", "b/same.jpg"]
    assert {name for name, _ in rows.skipped} == {"b/dead.jpg", "b/pipe.jpg"}


def test_empty_and_useless_folders_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing, it is empty"):
        open_rows(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.pdf").write_bytes(b"%PDF")
    with pytest.raises(DataError, match=r"found: 3 \.pdf"):
        open_rows(tmp_path)


def test_clips_and_recordings(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mov"):
        (tmp_path / name).write_bytes(b"x")
    assert open_rows(tmp_path).columns == ("video",)
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "a.wav").write_bytes(b"x")
    assert open_rows(tmp_path / "sound").columns == ("audio",)


def test_fingerprint_is_of_names_and_sizes(tmp_path: Path) -> None:
    first = open_rows(write(tmp_path / "x", "a.jpg", "b.jpg")).fingerprint
    assert open_rows(write(tmp_path / "y", "a.jpg", "b.jpg")).fingerprint == first
    (tmp_path / "y" / "b.jpg").write_bytes(b"longer than before" * 100)
    assert open_rows(tmp_path / "y").fingerprint != first


def test_many_files_stay_small_in_memory(tmp_path: Path) -> None:
    for number in range(4000):
        (tmp_path / f"a-file-name-of-usual-length-{number:06d}.jpg").touch()
    tracemalloc.start()
    rows = open_rows(tmp_path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 4000
    assert kept < 4000 * 100, f"{kept / 4000:.0f} bytes a file"
    reader = rows._reader
    assert isinstance(reader, FolderReader)
    assert len(pickle.dumps(rows)) < 4000 * 80
