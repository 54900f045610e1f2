from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data import BadRow, DataError, Rows, concatenate
from counterpoint.data.paths import path_below


def letters(count: int = 5) -> Rows:
    return Rows.from_list([{"id": f"r{n}", "text": "abcdefgh"[n], "label": n % 2} for n in range(count)])


def test_reading() -> None:
    rows = letters()
    assert len(rows) == 5 and rows.columns == ("text", "label")
    assert rows[0] == {"id": "r0", "text": "a", "label": 0} and rows[-1]["id"] == "r4"
    assert [row["id"] for row in rows] == rows.column("id") == ["r0", "r1", "r2", "r3", "r4"]
    with pytest.raises(IndexError):
        rows[5]


def test_rows_without_id_are_numbered_and_ids_are_unique() -> None:
    assert Rows.from_list([{"text": "a"}, {"text": "b"}]).column("id") == ["0", "1"]
    with pytest.raises(DataError, match="two rows have the id '1'"):
        Rows.from_list([{"text": "a"}, {"text": "b", "id": "1"}, {"text": "c", "id": 1}])


def test_changing_a_row_changes_no_source() -> None:
    rows = letters()
    rows[0]["text"] = "changed"
    assert rows[0]["text"] == "a"


def test_select_composes() -> None:
    rows = letters().select([4, 2, 0])
    assert rows.column("id") == ["r4", "r2", "r0"]
    assert rows.select([2, 0]).column("text") == ["a", "e"]
    assert rows[1:].column("id") == ["r2", "r0"]
    assert rows.select(np.array([True, False, True])).column("id") == ["r4", "r0"]
    assert rows.select([-1]).column("id") == ["r0"]
    assert len(rows.select([])) == 0
    with pytest.raises(IndexError, match="there are 3 rows"):
        rows.select([3])
    with pytest.raises(ValueError, match="mask of 2"):
        rows.select(np.array([True, False]))


def test_rename() -> None:
    rows = Rows.from_list([{"photo": 1, "caption": "x", "text": "other"}])
    renamed = rows.rename({"image": "photo", "text": "caption"})
    assert renamed.columns == ("image", "text") and renamed[0] == {"id": "0", "image": 1, "text": "x"}
    again = renamed.rename({"title": "text"})
    assert again[0] == {"id": "0", "image": 1, "title": "x"} and again.column("title") == ["x"]
    with pytest.raises(DataError, match=r"no column 'picture' \(wanted as 'image'\); found: photo, caption, text"):
        rows.rename({"image": "picture"})
    with pytest.raises(DataError, match="found: photo, caption, text"):
        rows.column("picture")


def test_rename_swaps() -> None:
    rows = Rows.from_list([{"first": 1, "second": 2}]).rename({"first": "second", "second": "first"})
    assert rows[0] == {"id": "0", "first": 2, "second": 1}


def test_fingerprint_follows_content_order_and_names() -> None:
    rows = letters()
    others = [
        letters(4),
        rows.select([1, 0, 2, 3, 4]),
        rows.rename({"caption": "text"}),
        Rows.from_list([{**row, "text": row["text"].upper()} for row in rows]),
        Rows.from_list(list(rows), class_names=["even", "odd"]),
    ]
    prints = [rows.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(prints)) == len(prints)
    assert letters().fingerprint == rows.fingerprint


def test_concatenate_names_sources_and_ids() -> None:
    joined = concatenate([letters(2), letters(3)], ["dark", "bright"])
    assert joined.columns == ("text", "label", "source")
    assert joined.column("id") == ["dark/r0", "dark/r1", "bright/r0", "bright/r1", "bright/r2"]
    assert [row["source"] for row in joined] == joined.column("source") == ["dark"] * 2 + ["bright"] * 3
    assert joined[3] == {"id": "bright/r1", "text": "b", "label": 1, "source": "bright"}
    with pytest.raises(ValueError, match="all different"):
        concatenate([letters(2), letters(2)], ["a", "a"])
    with pytest.raises(ValueError, match="parts is empty"):
        concatenate([])


def test_concatenate_unites_classes() -> None:
    cats = Rows.from_list([{"label": 0}, {"label": 1}], class_names=["cat", "dog"])
    apes = Rows.from_list([{"label": 0}, {"label": 1}], class_names=["ape", "cat"])
    joined = concatenate([cats, apes], ["x", "y"])
    assert joined.class_names == ["ape", "cat", "dog"]
    assert joined.column("label") == [row["label"] for row in joined] == [1, 2, 0, 1]


def test_with_labels_reads_one_set_with_the_classes_of_another() -> None:
    test = Rows.from_list([{"label": 0}, {"label": 1}], class_names=["ape", "dog"])
    assert test.with_labels(["ape", "cat", "dog"]).column("label") == [0, 2]
    with pytest.raises(DataError, match="class 'dog' is none of"):
        test.with_labels(["ape", "cat"])
    with pytest.raises(DataError, match="no names"):
        letters().with_labels(["a", "b"])


def test_rows_travel_to_workers() -> None:
    rows = concatenate([letters(2), letters(3)], ["a", "b"]).select([4, 0])
    copy = pickle.loads(pickle.dumps(rows))
    assert list(copy) == list(rows) and copy.fingerprint == rows.fingerprint
    error = pickle.loads(pickle.dumps(BadRow("why", "r1")))
    assert (error.reason, error.row_id) == ("why", "r1")


@pytest.mark.parametrize("value", ["../outside.jpg", "a/../../outside.jpg", "/etc/passwd", "link/outside.jpg"])
def test_paths_do_not_leave_the_root(tmp_path: Path, value: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.jpg").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(BadRow, match="leaves the folder"):
        path_below(root, value)


def test_paths_inside_the_root(tmp_path: Path) -> None:
    assert path_below(tmp_path, "a/../b.jpg") == tmp_path.resolve() / "b.jpg"
    assert path_below(tmp_path, str(tmp_path / "b.jpg")) == tmp_path.resolve() / "b.jpg"
    with pytest.raises(BadRow, match="address"):
        path_below(tmp_path, "http://example.org/x.jpg")
