from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pictures import plain

from counterpoint.data import BadRow, DataError, Loader, Row, open_rows
from counterpoint.data.images import decode

pytestmark = pytest.mark.usefixtures("own_cache")

Member = tuple[str, bytes] | tarfile.TarInfo


def write_tar(path: Path, members: Sequence[Member]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pairs(count: int, first: int = 0) -> list[Member]:
    found: list[Member] = []
    for number in range(first, first + count):
        found += [(f"{number:04d}.jpg", plain(number)), (f"{number:04d}.txt", f"caption {number}".encode())]
    return found


def test_pairs(tmp_path: Path) -> None:
    rows = open_rows(write_tar(tmp_path / "a.tar", pairs(5)))
    assert rows.columns == ("image", "text") and rows.skipped == []
    assert rows.column("id") == [f"a/{number:04d}" for number in range(5)]
    assert rows[3]["text"] == "caption 3" and rows[3]["image"] == plain(3)
    assert [row["text"] for row in rows] == rows.column("text")


def test_labels_and_json_become_columns(tmp_path: Path) -> None:
    members: list[Member] = []
    for number, label in enumerate(["cat", "dog", "cat"]):
        fields = json.dumps({"caption": f"a {label}", "width": 12}).encode()
        members += [
            (f"x/{number}.jpg", plain(number)),
            (f"x/{number}.cls", label.encode()),
            (f"x/{number}.json", fields),
        ]
    rows = open_rows(write_tar(tmp_path / "a.tar", members), columns={"text": "caption"})
    assert set(rows.columns) == {"image", "label", "text", "width"}
    assert rows.class_names == ["cat", "dog"] and rows.column("label") == [0, 1, 0]
    assert rows[1]["text"] == "a dog" and rows[1]["id"] == "a/x/1"


def test_several_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"part-{number:03d}.tar", pairs(2, first=2 * number))
    write_tar(tmp_path / "part-003.tar", [])  # an empty shard is no fault
    for source in (tmp_path, str(tmp_path / "part-{000..003}.tar"), str(tmp_path / "*.tar")):
        rows = open_rows(source)
        assert [row["text"] for row in rows] == [f"caption {number}" for number in range(6)]
    assert rows.column("id")[2] == "part-001/0002"
    with pytest.raises(DataError, match="no file, folder or built-in set"):
        open_rows(str(tmp_path / "part-{000..004}.tar"))


def test_faulty_members_are_listed_and_nothing_is_written(tmp_path: Path, own_cache: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    members: list[Member] = [
        *pairs(10),
        ("0003.jpg", plain(99)),
        ("lonely.jpg", plain(1)),
        ("silent.txt", b"no picture"),
        ("../escape.jpg", plain(2)),
        ("/absolute.jpg", plain(3)),
        ("a/../../b.jpg", plain(4)),
        ("C:/windows.jpg", plain(5)),
        special("link.jpg", tarfile.SYMTYPE),
        special("hard.jpg", tarfile.LNKTYPE),
        special("device.jpg", tarfile.CHRTYPE),
        special("pipe.jpg", tarfile.FIFOTYPE),
        ("code.pkl", b"cos\nsystem\n(S'touch pwned'\ntR."),
        ("0004.pyd", b"x"),
        ("readme.md", b"not data"),
    ]
    rows = open_rows(write_tar(work / "a.tar", members))
    assert len(rows) == 10 and rows[3]["image"] == plain(3)
    reasons = dict(rows.skipped)
    assert "a second image" in reasons["a.tar:0003.jpg"]
    assert "missing pair: no text" in reasons["a/lonely"] and "missing pair: no image" in reasons["a/silent"]
    for name in ("../escape.jpg", "/absolute.jpg", "a/../../b.jpg", "C:/windows.jpg"):
        assert "unsafe path" in reasons[f"a.tar:{name}"]
    for name in ("link.jpg", "hard.jpg", "device.jpg", "pipe.jpg"):
        assert "never followed" in reasons[f"a.tar:{name}"]
    assert "never read" in reasons["a.tar:code.pkl"] and "never read" in reasons["a.tar:0004.pyd"]
    assert len(reasons) == 13
    assert [path.name for path in work.iterdir()] == ["a.tar"]
    assert {path.suffix for path in own_cache.rglob("*") if path.is_file()} <= {".arrow", ".json"}
    again = open_rows(work / "a.tar")
    assert again.skipped == rows.skipped and list(again) == list(rows)


def test_truncated_shard_keeps_what_is_whole(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pairs(10))
    content = path.read_bytes()
    eighth = content.index(b"0008.jpg")
    path.write_bytes(content[: eighth + 512 + 100])  # within the ninth picture
    rows = open_rows(path)
    assert len(rows) == 8 and all(decode(row["image"]) for row in rows)
    assert any("ends inside" in why or "cut short" in why for _, why in rows.skipped)
    path.write_bytes(content[: eighth + 100])  # within its header
    rows = open_rows(path)
    assert len(rows) == 8 and any("cut short" in why for _, why in rows.skipped)


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\0" * 10240, b"<html>" * 1000])
def test_what_is_no_shard_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match="no tar file|no samples"):
        open_rows(tmp_path / "a.tar")


def test_bad_members_are_bad_rows(tmp_path: Path) -> None:
    members: list[Member] = []
    texts = [b"{}", b"{not json", b"[1]", b"[" * 100_000, b'{"ok": 1}', b'{"id": "own"}']
    for number, fields in enumerate(texts):
        members += [(f"{number}.jpg", plain(number)), (f"{number}.json", fields)]
    members += [("6.jpg", plain(6)), ("6.json", b"{}"), ("6.txt", b"\xff\xfe")]
    rows = open_rows(write_tar(tmp_path / "a.tar", members))
    kinds = [isinstance(row, BadRow) for row in rows.scan()]
    assert kinds == [False, True, True, True, False, False, True]
    assert rows[5]["id"] == "a/5"
    with pytest.raises(BadRow) as caught:
        rows[1]
    assert caught.value.row_id == "a/1"


def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    header = tarfile.TarInfo("x")
    with path.open("wb") as out:
        for number in range(100_000):
            header.name = f"{number:06d}.txt"
            out.write(header.tobuf(tarfile.USTAR_FORMAT))
        out.write(b"\0" * 1024)
    rows = open_rows(path)
    assert len(rows) == 100_000 and rows[-1]["id"] == "many/099999"


def _read(row: Row, rng: np.random.Generator) -> dict[str, str]:
    return {"text": row["text"]}


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("done", [0, 2])
def test_no_starvation(tmp_path: Path, processes: int, done: int) -> None:
    """Three shards, one empty, uneven, for 2 or 3 processes of 4 workers, from the start of an epoch and from within:
    every sample once, in step, without waiting."""
    for number, count in enumerate((1, 0, 12)):
        write_tar(tmp_path / f"{number}.tar", pairs(count, first=100 * number))
    rows = open_rows(tmp_path)

    def read(start: int, shard: tuple[int, int], workers: int) -> list[list[str]]:
        loader = Loader(rows, _read, batch=4, seed=0, workers=workers, drop_last=False, shard=shard)
        return [batch["_ids"] for batch in loader.batches(1, start)]

    before = read(0, (0, 1), workers=0)[:done]
    parts = [read(done, (index, processes), workers=4) for index in range(processes)]
    assert [len(part) for part in parts] == [4 - done] * processes
    together = [*before, *([name for ids in step for name in ids] for step in zip(*parts, strict=True))]
    assert together == read(0, (0, 1), workers=0)
    assert sorted(name for ids in together for name in ids) == rows.column("id")


def test_shards_travel_to_workers(tmp_path: Path) -> None:
    rows = open_rows(write_tar(tmp_path / "a.tar", pairs(4))).select([3, 1])
    assert list(pickle.loads(pickle.dumps(rows))) == list(rows)


def test_a_shard_that_shrinks_after_indexing_gives_bad_rows(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pairs(4))
    rows = open_rows(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert sum(isinstance(row, BadRow) for row in rows.scan()) >= 3
    path.unlink()
    assert all(isinstance(row, BadRow) for row in rows.scan())
