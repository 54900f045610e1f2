"""A folder of pictures becomes label maps, overlays and shares; the colours say which class is where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from counterpoint.data.images import decode_mask
from counterpoint.predict import predict
from counterpoint.predict.overlay import class_colours, overlay
from toy_models import ImageModel


class Segmenter(ImageModel):
    """Class 0 where a pixel is dark, else one more than its strongest channel; keeps the largest batch."""

    class_names = ("background", "red", "green", "blue")

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def segment(self, images: Tensor) -> Tensor:
        self.most = max(self.most, len(images))
        return torch.where(images.amax(dim=1) < 0.3, 0, images.argmax(dim=1) + 1)


class Many(ImageModel):
    """Three hundred classes without names: every column its own."""

    def segment(self, images: Tensor) -> Tensor:
        return torch.arange(images.shape[3]).expand(len(images), *images.shape[2:])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _pictures(folder: Path) -> dict[str, np.ndarray]:
    """Files in a folder, one of them broken, and the labels of the others."""
    (folder / "deep").mkdir(parents=True)
    wanted = {}
    for name, (height, width) in {"a.png": (6, 8), "b.bmp": (5, 3), "deep/ü c.png": (40, 7)}.items():
        labels = np.random.default_rng(len(wanted)).integers(0, 4, (height, width))
        colours = np.array([[10, 20, 30], [250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=np.uint8)
        Image.fromarray(colours[labels]).save(folder / name)
        wanted[name] = labels
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return wanted


def test_a_folder_with_a_bad_file(tmp_path: Path) -> None:
    wanted = _pictures(tmp_path / "in")
    model = Segmenter()
    found = predict(model, str(tmp_path / "in"), out=tmp_path / "out", task="segment")
    assert (found.task, found.rows, found.predicted, model.most) == ("segment", 4, 3, 1)
    assert [row.id for row in found.skipped] == ["broken.png"]
    lines = {line["id"]: line for line in _lines(found.path)}
    assert set(lines) == set(wanted)
    for name, labels in wanted.items():
        line = lines[name]
        assert np.array_equal(decode_mask(tmp_path / "out" / line["mask"]), labels)
        picture = np.asarray(Image.open(tmp_path / "in" / name))
        drawn = np.asarray(Image.open(tmp_path / "out" / line["overlay"]))
        assert np.array_equal(drawn, overlay(picture, labels, Segmenter.class_names))
        assert (line["height"], line["width"]) == labels.shape
        shares = {answer["number"]: answer["share"] for answer in line["classes"]}
        assert shares == {int(k): pytest.approx(float((labels == k).mean())) for k in np.unique(labels)}
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        for answer in line["classes"]:
            assert answer["label"] == Segmenter.class_names[answer["number"]]
            red, green, blue = class_colours(4)[answer["number"]].tolist()
            assert answer["colour"] == f"#{red:02x}{green:02x}{blue:02x}"


def test_ids_never_leave_the_folder_or_meet(tmp_path: Path) -> None:
    picture = np.full((3, 3, 3), 255, np.uint8)
    rows = [{"id": name, "image": picture} for name in ("../up", "a/b.png", "a/b.jpg", "/etc/x", "a:b", "a_b")]
    found = predict(Segmenter(), rows, out=tmp_path / "out")
    lines = _lines(found.path)
    files = [tmp_path / "out" / line[kind] for line in lines for kind in ("mask", "overlay")]
    assert len({file.resolve() for file in files}) == 12 and all(file.is_file() for file in files)
    assert all((tmp_path / "out") in file.resolve().parents for file in files)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_more_than_256_classes_need_16_bits(tmp_path: Path) -> None:
    found = predict(Many(), [{"id": "wide", "image": np.zeros((2, 300, 3), np.uint8)}], out=tmp_path)
    line = _lines(found.path)[0]
    assert np.array_equal(decode_mask(tmp_path / line["mask"]), np.tile(np.arange(300), (2, 1)))
    assert line["classes"][7] == {**line["classes"][7], "label": "7", "number": 7, "share": pytest.approx(1 / 300)}


def test_it_is_offered_by_the_method_alone(tmp_path: Path) -> None:
    class Both(Segmenter):
        def classify(self, rows: Any) -> Tensor:
            return torch.ones(len(rows), 2) / 2

    rows = [{"id": "a", "image": np.zeros((2, 2, 3), np.uint8)}]
    assert predict(Segmenter(), rows, out=tmp_path).task == "segment"
    with pytest.raises(ValueError, match="Both can classify, segment: choose with task="):
        predict(Both(), rows, out=tmp_path)
    assert predict(Both(), rows, out=tmp_path, task="segment").task == "segment"
    with pytest.raises(ValueError, match="ImageModel cannot segment"):
        predict(ImageModel(), rows, out=tmp_path, task="segment")
    with pytest.raises(ValueError, match="this model has its own classes: leave out `classes`"):
        predict(Segmenter(), rows, out=tmp_path, task="segment", classes="red,green")
    with pytest.raises(ValueError, match="no picture in the column 'image'"):
        predict(Segmenter(), [{"id": "a", "image": None}], out=tmp_path)


def test_a_run_that_stops_leaves_no_list(tmp_path: Path) -> None:
    class Stops(Segmenter):
        def segment(self, images: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        predict(Stops(), [{"id": "a", "image": np.zeros((2, 2, 3), np.uint8)}], out=tmp_path)
    assert not list(tmp_path.rglob("*.json*"))


def test_overlays_show_classes_and_leave_the_background() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    labels = np.zeros((8, 8), np.int64)
    labels[2:6, 2:6] = 2
    drawn = overlay(picture, labels, ("background", "cat", "dog"))
    assert np.array_equal(drawn[7], picture[7])
    colour = class_colours(3)[2].astype(int)
    inside = drawn[4, 4].astype(int)
    assert bool((np.abs(inside - colour) < np.abs(100 - colour)).all())
    assert int(drawn[2, 3].sum()) < int(drawn[4, 4].sum())  # the line around it is dark
    assert np.array_equal(picture, np.full((8, 8, 3), 100, np.uint8))
    tinted = overlay(picture, labels)
    assert not np.array_equal(tinted[7], picture[7])  # without names nothing is known to be background
    with pytest.raises(ValueError, match="picture and labels must be"):
        overlay(picture, labels[1:])


def test_colours_of_classes_differ_and_stay() -> None:
    colours = class_colours(40)
    assert np.array_equal(colours[:9], class_colours(9)) and class_colours(0).shape == (0, 3)
    distances = np.abs(colours[:, None].astype(int) - colours[None]).max(axis=2) + 255 * np.eye(40, dtype=int)
    assert int(distances.min()) >= 8
    nearby = [int(np.abs(a.astype(int) - b).max()) for a, b in zip(colours, colours[1:], strict=False)]
    assert min(nearby) > 60


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.predict import overlay as module

    rng = np.random.default_rng(0)
    picture, labels = rng.integers(0, 256, (37, 11, 3)).astype(np.uint8), rng.integers(0, 5, (37, 11))
    whole = overlay(picture, labels, ("background", "a"))
    monkeypatch.setattr(module, "_STRIP", 20)
    assert np.array_equal(overlay(picture, labels, ("background", "a")), whole)
