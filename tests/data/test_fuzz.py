"""Tables and shards of any content: what was written comes back; damage gives a DataError or bad rows, never more."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import uuid
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import plain

from counterpoint.data import BadRow, DataError, open_rows

pytestmark = pytest.mark.usefixtures("own_cache")

_SETTINGS = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_value = st.text() | st.integers() | st.none()
_field = st.text(alphabet=st.sampled_from(list("ab ,;\t|\"'\n\\é漢")), max_size=8)


def written(folder: Path, ending: str, content: bytes) -> Path:
    """A new file each time: hypothesis calls a test many times with the same folder."""
    path = folder / f"{uuid.uuid4().hex}{ending}"
    path.write_bytes(content)
    return path


@_SETTINGS
@given(
    rows=st.lists(st.tuples(_field, _field, _field), min_size=1, max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_comes_back_as_written(tmp_path: Path, rows: list[tuple[str, str, str]], quoting: int, end: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerow(["first", "second", "third"])
    writer.writerows([(f"x{first}", second, f"{third}x") for first, second, third in rows])
    found = list(open_rows(written(tmp_path, ".csv", buffer.getvalue().encode())))
    assert [(row["first"], row["second"], row["third"]) for row in found] == [
        (f"x{first}", second, f"{third}x") for first, second, third in rows
    ]


@_SETTINGS
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.text() | st.integers() | st.none(), min_size=1), min_size=1
    )
)
def test_jsonl_comes_back_as_written(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-8", "surrogatepass")
    found = list(open_rows(written(tmp_path, ".jsonl", content)).scan())
    assert len(found) == len(rows)
    for row, wanted in zip(found, rows, strict=True):
        if not isinstance(row, BadRow):
            assert {name: row[name] for name in wanted} == wanted


@_SETTINGS
@given(ending=st.sampled_from([".csv", ".tsv", ".jsonl", ".txt"]), content=st.binary(max_size=200))
def test_tables_of_any_bytes(tmp_path: Path, ending: str, content: bytes) -> None:
    try:
        rows = open_rows(written(tmp_path, ending, content))
    except DataError:
        return
    found = list(rows.scan())
    assert len(found) == len(rows)
    assert [row.row_id if isinstance(row, BadRow) else row["id"] for row in found] == rows.column("id")
    for number, row in enumerate(found):
        if isinstance(row, BadRow):
            with pytest.raises(BadRow):
                rows[number]
        else:
            assert rows[number] == row


def _shard(kind: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for number in range(4):
            for name, content in ((f"{number}.jpg", plain(number)), (f"{'é' * 60}/{number}.txt", b"text")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


_SHARDS = [_shard(kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]


@settings(_SETTINGS, max_examples=200)
@given(data=st.data())
def test_damaged_shards(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(_SHARDS)))
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rows = open_rows(written(tmp_path, ".tar", bytes(content)))
        except DataError as error:
            assert "\n" not in str(error)
            return
        assert len(list(rows.scan())) == len(rows)
