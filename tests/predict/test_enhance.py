"""A folder of pictures in, a folder of enhanced pictures out; nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.predict import predict
from counterpoint.predict.tasks.enhance import beside
from counterpoint.system import System


class Brighten(System):
    """Doubles every value."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def enhance(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(images.shape))
        return (2 * images).clamp(0, 1)


def _picture(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 128, (height, width, 3), dtype=np.uint8)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "trip").mkdir(parents=True)
    Image.fromarray(_picture(0, 30, 20)).save(photos / "a.png")
    Image.fromarray(_picture(1, 17, 40)).save(photos / "trip" / "a.png")
    Image.fromarray(_picture(2, 64, 48)).save(photos / "trip" / "b.JPG", "JPEG")
    Image.fromarray(_picture(3, 25, 25)).save(photos / "c.bmp")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return photos


def test_every_picture_keeps_name_and_size(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = Brighten()
    found = predict(model, str(folder), out=tmp_path / "out")
    assert (found.task, found.rows, found.predicted) == ("enhance", 5, 4)
    assert [row.id for row in found.skipped] == ["broken.png"]
    lines = {line["id"]: line for line in _lines(found.path)}
    assert {line["enhanced"] for line in lines.values()} == {
        "enhanced/a.png",
        "enhanced/trip/a.png",
        "enhanced/trip/b.JPG",
        "enhanced/c.bmp.enhanced.png",
    }
    for name, seed, size in (("a.png", 0, (30, 20)), ("trip/a.png", 1, (17, 40)), ("c.bmp", 3, (25, 25))):
        line = lines[name]
        result = np.asarray(Image.open(tmp_path / "out" / line["enhanced"]))
        original = _picture(seed, *size)
        assert np.array_equal(result, 2 * original), name
        assert (line["width"], line["height"]) == size
        assert line["mean_before"] == pytest.approx(original.mean() / 255)
        assert line["mean_after"] == pytest.approx(2 * original.mean() / 255)
        both = np.asarray(Image.open(tmp_path / "out" / line["beside"])).astype(int)
        assert both.shape == (size[1], 2 * size[0] + 8, 3)
    jpeg = Image.open(tmp_path / "out" / lines["trip/b.JPG"]["enhanced"])
    assert (jpeg.format, jpeg.size) == ("JPEG", (64, 48))
    assert {path: path.read_bytes() for path in before} == before, "originals are never touched"
    assert all(shape[0] == 1 for shape in model.shapes), "one picture at a time"


def test_answers_do_not_lie_among_the_pictures_that_are_read(folder: Path) -> None:
    (folder / "enhanced").mkdir()
    mine = folder / "enhanced" / "a.png"
    Image.fromarray(_picture(9, 8, 8)).save(mine)
    before = mine.read_bytes()
    for source in (folder, folder / "enhanced"):
        with pytest.raises(ValueError, match="lies among the pictures of .*: choose an out elsewhere"):
            predict(Brighten(), source, out=folder)
    assert mine.read_bytes() == before and sorted(path.name for path in folder.glob("*.jsonl*")) == []
    mine.unlink()
    (folder / "enhanced").rmdir()
    assert predict(Brighten(), folder, out=folder).predicted == 4  # nothing there yet that could be lost


def test_an_original_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "enhanced").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(_picture(0, 9, 9)).save(tmp_path / "enhanced" / name)
    rows = [{"id": "a.png", "image": tmp_path / "enhanced" / "a.png"}, {"id": "z.png", "image": _picture(1, 9, 9)}]
    before = (tmp_path / "enhanced" / "a.png").read_bytes()
    found = predict(Brighten(), rows, out=tmp_path)
    assert found.predicted == 1 and "take the place of the original" in found.skipped[0].reason
    assert (tmp_path / "enhanced" / "a.png").read_bytes() == before


def test_large_pictures_are_made_smaller_where_both_are_shown() -> None:
    both = beside(_picture(0, 3000, 1500), _picture(1, 3000, 1500))
    assert both.shape == (512, 2 * 1024 + 8, 3)


def test_rows_without_a_picture_are_listed(tmp_path: Path) -> None:
    pictures = {"a": None, "b": _picture(0, 8, 8), "c": _picture(0, 1, 8)}
    rows = [{"id": name, "image": picture} for name, picture in pictures.items()]
    found = predict(Brighten(), rows, out=tmp_path)
    assert found.predicted == 1
    assert [row.id for row in found.skipped] == ["a", "c"]
