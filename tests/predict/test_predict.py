"""Answers for a folder of rows: all of them, in order, without the bad ones, with a bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.data import Rows
from counterpoint.predict import predict
from counterpoint.predict.options import read_class_names
from counterpoint.predict.predict import list_tasks
from toy_models import COLOURS, ImageModel, PairModel, TextModel, coloured, read_pixels


class Classifier(ImageModel):
    """Nearest colour; counts the rows of each call."""

    class_names = list(COLOURS)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def classify(self, rows: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        self.calls.append(len(rows))
        means = torch.stack([read_pixels(row)["image"].mean((1, 2)) for row in rows])
        colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
        return (-((means[:, None] - colours[None]) ** 2).sum(2) * 9).softmax(1)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_classifier_answers_every_row_in_order(tmp_path: Path) -> None:
    rows = coloured(50)
    model = Classifier()
    found = predict(model, rows, out=tmp_path / "answers", batch=8, top=2)
    assert (found.task, found.rows, found.predicted, found.skipped) == ("classify", 50, 50, [])
    assert found.path == tmp_path / "answers" / "predictions.jsonl"
    lines = _lines(found.path)
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert [line["label"] for line in lines] == [list(COLOURS)[row["label"]] for row in rows]
    assert all(len(line["top"]) == 2 and line["top"][0]["label"] == line["label"] for line in lines)
    assert all(line["probability"] == max(answer["probability"] for answer in line["top"]) for line in lines)
    assert max(model.calls) == 8


def test_one_bad_file_never_stops_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(COLOURS):
        Image.new("RGB", (20, 20), tuple(255 * part for part in COLOURS[name])).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows = [{"id": path.name, "image": path} for path in sorted(folder.iterdir())]
    for batch in (1, 2, 64):
        found = predict(Classifier(), rows, out=tmp_path / f"answers{batch}", batch=batch)
        assert [line["label"] for line in _lines(found.path)] == list(COLOURS)
        assert [row.id for row in found.skipped] == ["broken.png"]
        assert [line["id"] for line in _lines(tmp_path / f"answers{batch}" / "skipped.jsonl")] == ["broken.png"]


@pytest.mark.parametrize("classes", ["red,green, blue", ["red", "green", "blue"], "file"])
def test_an_image_text_model_is_told_the_classes(tmp_path: Path, classes: Any) -> None:
    if classes == "file":
        classes = tmp_path / "classes.txt"
        classes.write_text("red\n\ngreen\nblue\n")
    rows = [{"id": row["id"], "image": row["image"], "label": row["label"]} for row in coloured(40)]
    rows = [row for row in rows if row["label"] != 3]
    found = predict(PairModel(COLOURS), rows, out=tmp_path / "answers.jsonl", classes=classes, batch=7)
    assert found.path == tmp_path / "answers.jsonl"
    assert [line["label"] for line in _lines(found.path)] == [list(COLOURS)[row["label"]] for row in rows]
    assert sum(answer["probability"] for answer in _lines(found.path)[0]["top"]) == pytest.approx(1.0)


def test_only_pictures_are_shown_to_the_image_side(tmp_path: Path) -> None:
    """A caption in the data must not decide the class, and rows without one are fine."""
    rows = coloured(8)
    for row in rows[:4]:
        row["text"] = "a blue card"
    del rows[5]["text"]
    found = predict(PairModel(COLOURS), rows, out=tmp_path, classes=list(COLOURS))
    assert [line["label"] for line in _lines(found.path)] == [list(COLOURS)[row["label"]] for row in rows]


def test_tasks_are_files() -> None:
    assert "classify" in list_tasks()


def test_nothing_is_left_behind_by_an_error(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": b"broken"}]
    with pytest.raises(ValueError, match="none of the 1 rows of rows could be used: a: "):
        predict(Classifier(), rows, out=tmp_path / "out")
    assert not list(tmp_path.rglob("*.part"))

    class Stops(Classifier):
        def classify(self, rows: Any) -> torch.Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        predict(Stops(), coloured(3), out=tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    rows = coloured(4)
    with pytest.raises(ValueError, match="TextModel predicts nothing by itself; an image-text model classifies when"):
        predict(TextModel(), rows, out=tmp_path)
    with pytest.raises(ValueError, match="no task is called 'paint'; there are classify"):
        predict(Classifier(), rows, out=tmp_path, task="paint")
    with pytest.raises(ValueError, match="TextModel cannot classify"):
        predict(TextModel(), rows, out=tmp_path, task="classify")
    with pytest.raises(ValueError, match="this model has its own classes: leave out `classes`"):
        predict(Classifier(), rows, out=tmp_path, classes="red,green")
    with pytest.raises(ValueError, match="ImageModel cannot classify by class names"):
        predict(ImageModel(), rows, out=tmp_path, classes="red,green")
    with pytest.raises(ValueError, match="classes needs at least two names"):
        read_class_names("red")
    with pytest.raises(ValueError, match="classes names 'red' twice"):
        read_class_names(["red", "blue", "red"])
    with pytest.raises(ValueError, match="top and batch must be at least 1, got top=0"):
        predict(Classifier(), rows, out=tmp_path, top=0)


def test_models_told_their_classes_say_so(tmp_path: Path) -> None:
    class Told(PairModel):
        def classify(self, images: torch.Tensor, class_names: Sequence[str]) -> torch.Tensor:
            raise AssertionError("the texts would be embedded again for every batch")

    model = Told(COLOURS)
    with pytest.raises(ValueError, match="Told has to be told its classes"):
        predict(model, coloured(4), out=tmp_path)
    found = predict(model, coloured(8), out=tmp_path, classes=list(COLOURS))
    assert found.predicted == 8


def test_numbers_stand_for_classes_without_names(tmp_path: Path) -> None:
    model = Classifier()
    model.class_names = None  # type: ignore[assignment]
    rows = Rows.from_list([{"image": np.zeros((8, 8, 3), np.uint8)}, {"image": np.full((8, 8, 3), 255, np.uint8)}])
    found = predict(model, rows, out=tmp_path)
    assert [line["label"] for line in _lines(found.path)][1] == "3"
