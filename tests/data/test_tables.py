from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from pictures import plain

from counterpoint.data import BadRow, DataError, open_rows
from counterpoint.data.images import decode

pytestmark = pytest.mark.usefixtures("own_cache")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path / "a.csv", 'text,label\n"one, two",cat\n"three ""3""",dog\nNA,cat\n'))
    assert rows.columns == ("text", "label") and rows.class_names == ["cat", "dog"]
    assert [row["text"] for row in rows] == rows.column("text") == ["one, two", 'three "3"', "NA"]
    assert [row["label"] for row in rows] == rows.column("label") == [0, 1, 0]
    assert rows.column("id") == ["0", "1", "2"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_records_of_several_lines_and_blank_lines(tmp_path: Path, end: str) -> None:
    content = end.join(["a,b", '"x', "", 'y",1', "", "  ", "z,2", 'five" inch,3', '"","4"'])
    rows = open_rows(write(tmp_path / "a.csv", content))
    assert rows.column("b") == ["1", "2", "3", "4"]
    assert rows[0]["a"].split() == ["x", "y"] and rows[2]["a"] == 'five" inch' and rows[3]["a"] == ""


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")])
def test_delimiters(tmp_path: Path, name: str, mark: str) -> None:
    rows = open_rows(write(tmp_path / name, f"text{mark}score\nx, y{mark}1.5\n"))
    assert rows[0] == {"id": "0", "text": "x, y", "score": 1.5}


def test_bad_records_cost_one_row_each(tmp_path: Path) -> None:
    lines = [b"text,score", b"good,1", b"too,many,fields", b"short", b"not utf-8 \xff,2", b"zero\0byte,3", b"fine,x"]
    rows = open_rows(write(tmp_path / "a.csv", b"\n".join(lines)))
    found = list(rows.scan())
    assert found[0] == {"id": "0", "text": "good", "score": 1.0}
    reasons = {row.row_id: row.reason for row in found if isinstance(row, BadRow)}
    assert reasons.keys() >= {"1", "2", "3", "5"}
    assert "3 fields where the header has 2" in reasons["1"] and "UTF-8" in reasons["3"] and "no number" in reasons["5"]
    with pytest.raises(BadRow) as caught:
        rows[1]
    assert caught.value.row_id == "1"


def test_byte_order_mark_and_other_encodings(tmp_path: Path) -> None:
    assert open_rows(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\nx\n")).columns == ("text",)
    assert open_rows(write(tmp_path / "a.txt", b"\xef\xbb\xbfx\n"))[0]["text"] == "x"
    with pytest.raises(DataError, match="UTF-16; convert it"):
        open_rows(write(tmp_path / "b.txt", "x\n".encode("utf-16")))
    with pytest.raises(DataError, match="header is not UTF-8"):
        open_rows(write(tmp_path / "c.csv", "größe\nx\n".encode("latin-1")))
    with pytest.raises(DataError, match="lone carriage return"):
        open_rows(write(tmp_path / "d.csv", "a,b\r1,2\r"))


@pytest.mark.parametrize("text", ["", "\n\n", "text\n"])
def test_tables_without_rows(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="empty file|no rows"):
        open_rows(write(tmp_path / "a.csv", text))


def test_header_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names 'a' more than once"):
        open_rows(write(tmp_path / "a.csv", "a,b,a\n1,2,3\n"))
    assert open_rows(write(tmp_path / "b.csv", ",b\n1,2\n")).columns == ("column0", "b")


def test_jsonl(tmp_path: Path) -> None:
    lines = [{"text": "a", "n": 1}, {"text": "b", "extra": [1, 2]}, {"n": 2.5, "text": None}]
    rows = open_rows(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n"))
    assert set(rows.columns) == {"text", "n", "extra"}
    assert rows[1] == {"id": "1", "text": "b", "n": None, "extra": [1, 2]}
    assert rows.column("n") == [1, None, 2.5]


def test_jsonl_bad_lines(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    content = '{"text": "a"}\n{"text": \n[1, 2]\n"words"\n{"text": ' + deep + '}\n{"text": "b"}\n'
    rows = open_rows(write(tmp_path / "a.jsonl", content))
    found = list(rows.scan())
    assert [row["text"] for row in found if not isinstance(row, BadRow)] == ["a", "b"]
    reasons = [row.reason for row in found if isinstance(row, BadRow)]
    assert len(reasons) == 4 and "too deeply" in reasons[3] and "an object is needed" in reasons[1]


def test_json_that_is_no_jsonl(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the first rows can be read"):
        open_rows(write(tmp_path / "a.json", json.dumps([{"text": "a"}], indent=1)))


def test_text_lines(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path / "a.txt", "one\n\n  two \n\nthree"))
    assert rows.column("text") == [row["text"] for row in rows] == ["one", "two", "three"]


def test_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": "x", "text": "a"}\n{"id": "y", "text": "b"}\n')
    rows = open_rows(path)
    assert rows.column("id") == ["x", "y"] and rows[1]["id"] == "y" and rows.columns == ("text",)
    keyed = open_rows(write(tmp_path / "b.csv", "key,text\nk1,a\nk2,b\n"), columns={"id": "key"})
    assert keyed.column("id") == ["k1", "k2"] and keyed.columns == ("text",)
    twice = write(tmp_path / "c.csv", "id,text\n7,a\n7,b\n")
    with pytest.raises(DataError, match="id '7' comes more than once"):
        open_rows(twice)
    freed = open_rows(twice, columns={"key": "id"})
    assert freed.column("id") == ["0", "1"] and freed.column("key") == ["7", "7"]
    gap = open_rows(write(tmp_path / "d.jsonl", '{"id": "x", "text": "a"}\n{"text": "b"}\n'))
    with pytest.raises(BadRow, match="no value in the id column"):
        gap[1]


def test_wrong_column_names_those_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "photo,caption\n1.jpg,x\n")
    with pytest.raises(DataError, match=r"no column 'picture' \(wanted as 'image'\); found: photo, caption"):
        open_rows(path, columns={"image": "picture"})


def test_pictures_named_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "1.jpg").write_bytes(plain(1))
    (tmp_path.parent / "outside.jpg").write_bytes(plain(2))
    path = write(tmp_path / "a.csv", "photo,caption\nimg/1.jpg,x\n../outside.jpg,y\n/etc/passwd,z\nmissing.jpg,w\n")
    rows = open_rows(path, columns={"image": "photo", "text": "caption"})
    assert decode(rows[0]["image"]).size == (12, 12)
    for number in (1, 2):
        with pytest.raises(BadRow, match="leaves the folder"):
            rows[number]
    with pytest.raises(BadRow, match="No such file"):
        decode(rows[3]["image"])
    wider = open_rows(path, columns={"image": "photo"}, root=tmp_path.parent)
    with pytest.raises(BadRow, match="leaves the folder"):
        wider[2]


@pytest.mark.parametrize(
    ("values", "names", "codes"),
    [
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
        (["0", "2", "1"], ["0", "1", "2"], [0, 2, 1]),
        (["1.0", "0", "1"], ["0", "1"], [1, 0, 1]),
        (["10", "9", "200"], ["9", "10", "200"], [1, 0, 2]),
        (["-1", "1", "1"], ["-1", "1"], [0, 1, 1]),
    ],
)
def test_labels(tmp_path: Path, values: list[str], names: list[str], codes: list[int]) -> None:
    rows = open_rows(write(tmp_path / "a.csv", "text,label\n" + "".join(f"x,{value}\n" for value in values)))
    assert rows.class_names == names
    assert [row["label"] for row in rows] == rows.column("label") == codes


def test_rows_without_a_label(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path / "a.csv", "text,label\nx,cat\ny,\nz,dog\n"))
    assert rows.class_names == ["cat", "dog"]
    assert [row["label"] for row in rows] == rows.column("label") == [0, None, 1]


def test_labels_that_are_no_classes_stay(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path / "a.jsonl", '{"label": [1, 2]}\n{"label": [3]}\n'))
    assert rows.class_names is None and rows.column("label") == [[1, 2], [3]]
    rows = open_rows(write(tmp_path / "b.jsonl", '{"label": 0.5}\n{"label": 1.5}\n'))
    assert rows.class_names is None and rows.column("label") == [0.5, 1.5]


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"part-{number}.csv", f"text\na{number}\nb{number}\n")
    rows = open_rows(str(tmp_path / "part-*.csv"))
    assert rows.column("text") == [row["text"] for row in rows] == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert rows.column("id")[2] == "part-1/0" and len(open_rows(tmp_path)) == 6
    write(tmp_path / "part-3.csv", "other\nx\n")
    with pytest.raises(DataError, match="has the columns"):
        open_rows(str(tmp_path / "part-*.csv"))


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "image": [plain(n) for n in range(3)]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = open_rows(tmp_path / "a.parquet")
    assert rows.column("label") == [0, 1, 0] and rows.class_names == ["x", "y"]
    assert decode(rows[1]["image"]).size == (12, 12) and rows[2]["text"] == "c"
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    write(tmp_path / "b.parquet", b"not parquet at all")
    with pytest.raises(DataError, match="b.parquet cannot be read"):
        open_rows(tmp_path / "b.parquet")


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first = open_rows(write(tmp_path / "a.csv", "text\nx\n")).fingerprint
    assert open_rows(write(tmp_path / "copy.csv", "text\nx\n")).fingerprint == first
    assert open_rows(write(tmp_path / "b.csv", "text\ny\n")).fingerprint != first


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n")
    assert len(open_rows(path)) == 2
    write(path, "one\ntwo\nthree\n")
    assert open_rows(path).column("text") == ["one", "two", "three"]


def test_tables_travel_to_workers(tmp_path: Path) -> None:
    rows = open_rows(write(tmp_path / "a.csv", "text,label\nx,a\ny,b\n"))
    copy = pickle.loads(pickle.dumps(rows))
    assert list(copy) == list(rows)
