"""What is wrong is said in one line, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_toys import (
    WIDTH,
    Toy,
    UncoupledToy,
    build,
    make_rows,
)

from counterpoint.run import Run
from counterpoint.training.train import train


def run(toy: Toy, out: Path, rows: Any = None, **overrides: Any) -> Run:
    values = {"batch": 16, "steps": 8, **overrides}
    return train(toy, make_rows() if rows is None else rows, out=out, overrides=values, quiet=True)


def test_a_column_that_is_missing_is_named_with_those_there(tmp_path: Path) -> None:
    rows = [{"id": str(i), "vector": [0.0] * WIDTH, "n": 1} for i in range(20)]
    with pytest.raises(ValueError, match="Toy needs the column 'x'; rows has vector, n. Rename one"):
        run(build(Toy), tmp_path / "run", rows)
    renamed = train(
        build(Toy), rows, out=tmp_path / "run", columns={"x": "vector"}, overrides={"batch": 4, "steps": 1}, quiet=True
    )
    assert renamed.config["columns"] == {"x": "vector"}


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        ([], {}, "no rows"),
        (make_rows(1), {}, "rows has one row: Toy contrasts rows with each other"),
        (None, {"batch": 1}, "batch=1: Toy contrasts"),
        (None, {"learning_rat": 0.1}, "training has no 'learning_rat'; did you mean learning_rate"),
        (None, {"learning_rate": -1.0}, "learning_rate must be at least 0, got -1.0"),
        (None, {"optimiser": "adam"}, "optimiser must be one of adamw, .*, got 'adam'"),
        (None, {"precision": "fp8"}, "precision must be one of"),
        (None, {"steps": 0}, "steps must be above 0"),
        (None, {"device": "cuda:99"}, "device"),
        (None, {"device": "tpuu"}, "device must be auto, cpu"),
        (None, {"group": "family"}, "family"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, rows: Any, changes: dict[str, Any], words: str) -> None:
    if changes.get("device") == "cuda:99" and torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    with pytest.raises(ValueError, match=words) as caught:
        run(build(Toy), tmp_path / "run", rows, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_uncoupled_system_may_have_a_batch_of_one(tmp_path: Path) -> None:
    assert run(build(UncoupledToy), tmp_path / "run", batch=1, steps=2).finished


def test_out_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file is a file"):
        run(build(Toy), tmp_path / "file")
