from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import plain

from counterpoint.data import DataError, Rows, list_builtins, open_rows, open_sources
from counterpoint.data.hub import open_hub

pytestmark = pytest.mark.usefixtures("own_cache")


def test_typos_name_the_nearest() -> None:
    with pytest.raises(DataError, match="called 'emojy'; nearest built-in set: emoji"):
        open_rows("emojy")
    with pytest.raises(DataError, match="built-in sets: .*digits.*emoji.*lee"):
        open_rows("zzzzzz")
    with pytest.raises(DataError, match="digits has no split 'tests'; it has: train, validation, test"):
        open_rows("digits:tests")


def test_builtins_are_the_files_of_their_folder() -> None:
    import counterpoint.data.builtin as folder

    files = {path.stem.replace("_", "-") for path in Path(folder.__path__[0]).glob("[a-z]*.py")}
    assert set(list_builtins()) == files
    assert {"emoji", "digits", "mnist5k", "photos", "textures", "clips", "lee", "wordsim", "ui-translations"} <= files


def test_a_folder_called_like_a_built_in_set_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    open_rows("digits")
    assert not caplog.records
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "1.jpg").write_bytes(plain(1))
    open_rows("digits")
    assert "digits is taken for the built-in set; what lies here is ./digits" in caplog.text
    assert len(open_rows("./digits")) == len(open_rows("digits/")) == 1


def test_rows_in_memory_pass_through() -> None:
    rows = open_rows([{"photo": 1, "label": "b"}, {"photo": 2, "label": "a"}], columns={"image": "photo"})
    assert rows[0] == {"id": "0", "image": 1, "label": 1} and rows.class_names == ["a", "b"]
    assert open_rows(rows) is rows
    assert open_rows([{"key": "k", "text": "a"}], columns={"id": "key"}).column("id") == ["k"]
    with pytest.raises(DataError, match="no column 'nokey'"):
        open_rows([{"key": "k"}], columns={"id": "nokey"})
    with pytest.raises(DataError, match="empty list"):
        open_rows([])
    with pytest.raises(TypeError, match="holds a str"):
        open_rows(["text"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no splits"):
        open_rows(rows, split="test")


def test_several_sources(tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(plain(1))
    rows = open_sources([f"backlit={tmp_path / 'dark'}/", f"welllit={tmp_path / 'bright'}/"])
    assert rows.column("source") == ["backlit", "welllit"] and rows.column("id") == ["backlit/1.jpg", "welllit/1.jpg"]
    assert open_sources([str(tmp_path / "dark"), str(tmp_path / "bright")]).column("source") == ["dark", "bright"]
    assert "source" not in open_sources([str(tmp_path / "dark")]).columns
    with pytest.raises(ValueError, match="called 'dark'; give each a name"):
        open_sources([str(tmp_path / "dark"), str(tmp_path / "dark")])
    with pytest.raises(ValueError, match="sources is empty"):
        open_sources([])


def test_splits_of_builtins_add_up() -> None:
    both = open_rows("digits:validation+test")
    assert len(both) == len(open_rows("digits:validation")) + len(open_rows("digits", split="test"))
    with pytest.raises(ValueError, match="names the split 'test'"):
        open_rows("digits:test", split="train")


def test_compressed_tables(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}\n'))
    assert open_rows(tmp_path / "a.jsonl.gz").column("text") == ["a", "b"]
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"text\nx\n")[:-6])
    with pytest.raises(DataError, match="cannot be unpacked"):
        open_rows(tmp_path / "b.csv.gz")


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.zip", "unpack it"), ("a.pdf", "no table and no shard"), ("photo.jpg", "name its folder")],
)
def test_other_files_say_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=words):
        open_rows(tmp_path / name)


def test_mixed_patterns_and_splits_of_tables_refuse(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "a.txt").write_text("x\n")
    with pytest.raises(DataError, match="mixes csv and text"):
        open_rows(str(tmp_path / "a.*"))
    with pytest.raises(DataError, match="has no splits"):
        open_rows(tmp_path / "a.csv", split="test")


def test_hub_reads_what_the_datasets_library_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "set"
    folder.mkdir(parents=True)
    lines = [{"text": f"t{number}", "id": f"k{number}"} for number in range(3)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.chdir(tmp_path)  # the library takes a folder of that name for the hub's data set
    rows = open_hub("org/set", split="train", id_column="id")
    assert rows.column("id") == ["k0", "k1", "k2"] and rows[2] == {"id": "k2", "text": "t2"}
    assert rows.name == "hub:org/set" and len(rows.fingerprint) == 16


def test_hub_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no hub id"):
        open_rows("hub:../../etc")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="hub:nobody/nothing cannot be read") as caught:
        open_rows("hub:nobody/nothing")
    assert "\n" not in str(caught.value)


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, counterpoint.data; print(sorted({'torch', 'numpy', 'datasets', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    import counterpoint.data as data

    for name in data.__all__:
        assert getattr(data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        data.nonsense  # noqa: B018
    assert data.Rows is Rows
