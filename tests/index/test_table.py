"""A table holds each id exactly once, whatever happened while it was made."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.data import Rows
from counterpoint.index import embed
from counterpoint.index.layout import open_table, table_path
from toy_models import COLOURS, ImageModel, PairModel, TextModel, TokenModel, coloured, sentences

_CHILD = """
import sys
import torch
from toy_models import ImageModel, coloured
from counterpoint.index import embed

class Announces(ImageModel):
    def embed(self, batch):
        print("batch", flush=True)
        return super().embed(batch)

torch.manual_seed(0)
embed(Announces(), coloured(400), out=sys.argv[1], batch=16, rows_per_write=16)
"""


def _contents(path: Path) -> list[dict[str, Any]]:
    found = open_table(path)
    assert found is not None
    return found[0].to_arrow().to_pylist()


def _killed(out: Path, batches: int) -> None:
    """Embed in a process of its own, killed without warning after some batches."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _CHILD, str(out)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(batches):
            assert child.stdout.readline() == "batch\n"
        child.send_signal(signal.SIGKILL)


def _check_resumed(tmp_path: Path, kills: Sequence[int]) -> None:
    out, kept = tmp_path / "pictures.lance", 0
    for batches in kills:
        _killed(out, batches)
        ids = [row["id"] for row in _contents(out)] if open_table(out) is not None else []
        assert kept <= len(ids) == len(set(ids)) < 400
        kept = len(ids)
    assert kept > 0, "nothing had been written when the process was killed: this tests nothing"
    torch.manual_seed(0)
    model = ImageModel()
    embed(model, coloured(400), out=out)
    rows = _contents(out)
    assert [row["id"] for row in rows] == [row["id"] for row in coloured(400)]
    fresh = _contents(embed(model, coloured(400), out=tmp_path / "fresh"))
    for row, expected in zip(rows, fresh, strict=True):
        np.testing.assert_allclose(row["vector"], expected["vector"], atol=1e-6)


def test_a_call_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    _check_resumed(tmp_path, (8,))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    _check_resumed(tmp_path, np.random.default_rng(seed).integers(3, 8, 3).tolist())


def test_columns_of_a_row(tmp_path: Path) -> None:
    picture = tmp_path / "door.png"
    Image.new("RGB", (300, 100), (200, 0, 0)).save(picture)
    rows = Rows.from_list(
        [
            {"id": "a", "image": picture, "text": "a red door", "label": 1, "source": "here"},
            {
                "id": "b",
                "image": np.zeros((8, 8, 3), dtype=np.uint8),
                "text": "dark",
                "label": 0,
                "source": "there",
            },
        ],
        class_names=["night", "door"],
    )
    first, second = _contents(embed(PairModel(COLOURS), rows, out=tmp_path / "t.lance"))
    assert (first["id"], first["text"], first["label"], first["source"]) == (
        "a",
        "a red door",
        "door",
        "here",
    )
    assert first["path"] == str(picture)
    assert second["path"] is None
    assert Image.open(io.BytesIO(first["thumbnail"])).size == (96, 32)
    assert len(first["vector_image"]) == len(first["vector_text"]) == 3
    expected = PairModel(COLOURS).embed({"image": torch.zeros(1, 3, 8, 8)})["image"][0]
    np.testing.assert_allclose(second["vector_image"], expected.detach().numpy(), atol=1e-6)


def test_the_table_remembers_its_model(tmp_path: Path) -> None:
    found = open_table(embed(TextModel(), sentences(5), out=tmp_path / "t"))
    assert found is not None
    metadata = found[1]
    assert metadata["model"]["system"] == "TextModel"
    assert len(metadata["model"]["checksum"]) == 64
    assert metadata["spaces"] == {"embedding": {"dimensions": 16, "tokens": False}}
    assert metadata["preprocessing"] == "read_words"
    assert "torch" in metadata["versions"]


def test_fast_vectors_stand_in_a_table_of_their_own(tmp_path: Path) -> None:
    model, rows = TextModel(), sentences(40)
    exact, fast = (embed(model, rows, out=tmp_path / str(flag), fast=flag) for flag in (False, True))
    vectors = [open_table(path)[0].to_arrow()["vector"].to_pylist() for path in (exact, fast)]
    assert vectors[0] != vectors[1]
    first, second = (torch.nn.functional.normalize(torch.tensor(part), dim=1) for part in vectors)
    assert (first * second).sum(1).min() > 0.999
    with pytest.raises(ValueError, match=r"was made with fast=True, not fast=False: choose another `out`"):
        embed(model, sentences(50), out=fast)


def test_more_rows_join_the_table(tmp_path: Path) -> None:
    model, out = TextModel(), tmp_path / "t.lance"
    embed(model, sentences(30), out=out)
    embed(model, sentences(80), out=out)
    assert [row["id"] for row in _contents(out)] == [row["id"] for row in sentences(80)]


def test_bad_rows_are_left_out_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = coloured(20)
    rows[4]["image"] = b"\xff\xd8\xff broken"
    out = embed(ImageModel(), rows, out=tmp_path / "t.lance", batch=3)
    kept = [row["id"] for row in _contents(out)]
    assert kept == [row["id"] for row in rows if row["id"] != "p4"]
    listed = [json.loads(line) for line in (tmp_path / "t.skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in listed] == ["p4"]
    assert "1 of 20 rows were left out" in caplog.text


def test_tokens_are_stored_without_padding(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "one two three"}]
    first, second = _contents(embed(TokenModel(), rows, out=tmp_path / "t"))
    assert np.shape(first["vector_text"]) == (1, 8)
    assert np.shape(second["vector_text"]) == (3, 8)


def test_a_space_can_be_chosen(tmp_path: Path) -> None:
    out = embed(PairModel(COLOURS), coloured(6), out=tmp_path / "t", space="image")
    assert "vector_text" not in _contents(out)[0]
    with pytest.raises(ValueError, match="the model has no space 'pictures' for these rows; it has image, text"):
        embed(PairModel(COLOURS), coloured(6), out=tmp_path / "u", space="pictures")


def test_names_of_tables() -> None:
    assert table_path("a/photos") == table_path("a/photos.lance") == Path("a/photos.lance").resolve()
    with pytest.raises(ValueError, match="a table cannot be called 'my photos'"):
        table_path("my photos.lance")


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    out = embed(TextModel(), sentences(5), out=tmp_path / "t.lance")
    with pytest.raises(ValueError, match="was made by other weights .* choose another `out`"):
        embed(TextModel(), sentences(9), out=out)
    with pytest.raises(ValueError, match="none of the 2 rows of rows could be embedded: no table was made"):
        embed(TextModel(), [{"text": ""}, {"text": " "}], out=tmp_path / "empty")
    with pytest.raises(ValueError, match="reads the column 'text', but the rows have caption, id"):
        embed(TextModel(), [{"caption": "x"}], out=tmp_path / "wrong")
    (tmp_path / "folder.lance").mkdir()
    (tmp_path / "folder.lance" / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="is a folder but not a table"):
        embed(TextModel(), sentences(5), out=tmp_path / "folder.lance")
    assert (tmp_path / "folder.lance" / "mine.txt").read_text() == "keep me"
    lancedb.connect(str(tmp_path)).create_table("foreign", [{"a": 1}])
    with pytest.raises(ValueError, match="counterpoint did not make"):
        embed(TextModel(), sentences(5), out=tmp_path / "foreign.lance")
