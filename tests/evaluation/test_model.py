"""Models as paths: scores, tables and answers from a run directory, also after it was moved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import counterpoint
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.model import describe_preprocessing, open_model, weights_checksum
from counterpoint.index import embed, search
from counterpoint.predict import predict
from toy_models import ImageModel, PairModel, read_pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "clip"
    counterpoint.train("clip", out=out, recipe="tiny", quiet=True)
    return out


def test_scores_go_into_the_run(run: Path) -> None:
    found = evaluate(run, "emoji:validation")
    assert found["data"]["split"] == "validation"
    assert found["model"]["path"] == str(run.resolve())
    assert found["model"]["system"] == "clip"
    assert found["model"]["arguments"]["encoder"].startswith("dual:")
    assert found["preprocessing"]["image"]["size"] == 32
    assert {"retrieval/text_to_image_recall@1", "retrieval/image_to_text_recall@10"} <= set(found["scores"])
    assert found["chance"]["retrieval/text_to_image_recall@10"] == pytest.approx(10 / 60)
    assert json.loads((run / "evaluation.json").read_text())["evaluations"] == [json.loads(json.dumps(found))]
    assert evaluate(run, "emoji:validation", batch=5)["scores"] == found["scores"]
    assert len(json.loads((run / "evaluation.json").read_text())["evaluations"]) == 1


def test_a_run_knows_its_own_data(run: Path) -> None:
    assert evaluate(run, protocols=["retrieval"])["data"]["name"] == "emoji:validation"


def test_a_run_and_its_loaded_system_have_one_checksum(run: Path) -> None:
    opened = open_model(run)
    assert opened.describe()["checksum"] == weights_checksum(counterpoint.load(run))
    assert open_model(opened.system).describe()["checksum"] == opened.describe()["checksum"]


def test_a_table_finds_its_model_until_that_is_moved(run: Path, tmp_path: Path) -> None:
    home = shutil.copytree(run, tmp_path / "here")
    table = embed(home, "emoji:validation", out=tmp_path / "emoji.lance")
    expected = search(table, "a face", top=5)
    assert len(expected) == 5
    moved = home.rename(tmp_path / "there")
    with pytest.raises(ValueError, match=r"was made by .*here, which is not there any more: say where it went"):
        search(table, "a face")
    assert search(table, "a face", top=5, model=moved) == expected
    assert embed(moved, "emoji:validation", out=table) == table  # the same weights: the same table


def test_predict_from_a_run(run: Path, tmp_path: Path) -> None:
    found = predict(run, "emoji:validation", out=tmp_path, classes=["animal", "face", "clock"])
    assert (found.rows, found.predicted) == (60, 60)


def test_preprocessing_is_described_by_its_settings() -> None:
    assert describe_preprocessing(ImageModel()) == "read_pixels"

    class Bound(PairModel):
        def preprocess(self) -> object:
            return Reader(3).read

    class Reader:
        def __init__(self, size: int) -> None:
            self.size = size

        def read(self, row: object) -> object:
            return read_pixels({})

    described = describe_preprocessing(Bound())
    assert described["of"] == {"class": "test_preprocessing_is_described_by_its_settings.<locals>.Reader", "size": 3}
    json.dumps(described)


def test_checksum_notices_one_changed_weight() -> None:
    model = ImageModel()
    before = weights_checksum(model)
    with torch.no_grad():
        model.net[0].bias[0] += 1e-6
    assert weights_checksum(model) != before


def test_a_path_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a run directory: it does not exist"):
        evaluate(tmp_path / "nowhere", "digits")
