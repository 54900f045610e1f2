"""`evaluate`: what runs, what is stored, that it repeats, and that nothing leaks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import Rows
from counterpoint.evaluation import evaluate, list_protocols
from counterpoint.evaluation.task import held_out_rows
from toy_models import COLOURS, ImageModel, PairModel, TextModel, coloured, sentences


def _rows(count: int = 80, seed: int = 0, columns: tuple[str, ...] = ("image", "text", "label")) -> Rows:
    rows = [{name: row[name] for name in ("id", *columns)} for row in coloured(count, seed)]
    return Rows.from_list(rows, name="cards", class_names=list(COLOURS) if "label" in columns else None)


def test_every_protocol_is_found_by_its_file() -> None:
    folder = Path(importlib.import_module("counterpoint.evaluation.protocols").__path__[0])
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(list_protocols()) == files
    assert files >= {
        "classification",
        "few_shot",
        "geometry",
        "knn",
        "linear_probe",
        "retrieval",
        "sts",
        "zero_shot",
    }


def test_columns_decide_what_runs() -> None:
    found = evaluate(PairModel(COLOURS), _rows())
    assert set(found["protocols"]) == {
        "few_shot",
        "geometry",
        "knn",
        "linear_probe",
        "retrieval",
        "zero_shot",
    }
    assert found["not_run"]["sts"] == "needs the columns 'other' and 'score'; found image, text, label"
    only_images = evaluate(ImageModel(), _rows(columns=("image",)))
    assert set(only_images["protocols"]) == {"geometry"}


def test_a_model_that_knows_the_colours_beats_chance_everywhere() -> None:
    found = evaluate(PairModel(COLOURS), _rows())
    assert found["scores"]["zero_shot/accuracy"] == 1.0
    assert found["scores"]["knn/accuracy"] == 1.0
    assert found["scores"]["linear_probe/accuracy"] == 1.0
    assert found["scores"]["few_shot/1_shot_accuracy"] > 0.9
    assert found["chance"]["zero_shot/accuracy"] == 0.25
    assert set(found["chance"]) <= set(found["scores"])


def test_the_record_says_what_it_takes_to_repeat_it(tmp_path: Path) -> None:
    rows = _rows()
    found = evaluate(PairModel(COLOURS), rows, seed=3, out=tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["evaluations"] == [json.loads(json.dumps(found))]
    assert found["seed"] == 3
    assert found["data"]["name"] == "cards"
    assert found["data"]["fingerprint"] == rows.fingerprint
    assert found["data"]["rows"] == 80
    assert len(found["model"]["checksum"]) == 64
    assert found["protocols"]["knn"]["settings"] == {"k": 20, "temperature": 0.07}
    assert found["protocols"]["knn"]["train"] == "64 of the given rows; scored on the other 16"
    assert found["protocols"]["zero_shot"]["settings"]["templates"][-1] == "{}"
    assert found["preprocessing"] == "read_both"
    assert {"python", "torch", "counterpoint", "scikit-learn", "scipy", "numpy"} <= set(found["versions"])


def test_it_repeats_to_the_same_numbers_and_replaces_its_record(tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    first = evaluate(PairModel(COLOURS), _rows(), out=out)
    again = evaluate(PairModel(COLOURS), _rows(), out=out, batch=7)
    assert first == again
    assert len(json.loads(out.read_text())["evaluations"]) == 1
    evaluate(PairModel(COLOURS), _rows(), out=out, seed=1)
    evaluate(PairModel(COLOURS), _rows(seed=5), out=out)
    assert len(json.loads(out.read_text())["evaluations"]) == 3


def test_other_weights_have_another_checksum() -> None:
    first, second = ImageModel(), ImageModel()
    records = [evaluate(model, _rows(columns=("image",)))["model"]["checksum"] for model in (first, first, second)]
    assert records[0] == records[1] != records[2]


def test_test_labels_never_reach_the_choice_of_the_probe() -> None:
    """Permuting the labels of the scored rows changes accuracies, not what was learnt."""
    torch.manual_seed(5)
    model = ImageModel()
    train, test = _rows(120, 1, ("image", "label")), _rows(60, 2, ("image", "label"))
    labels = np.random.default_rng(0).permutation(60) % 4
    shuffled = [dict(test[place]) | {"label": int(labels[place])} for place in range(60)]
    noise = Rows.from_list(shuffled, name="cards", class_names=test.class_names)
    honest, blind = (evaluate(model, rows, train_data=train, protocols=["linear_probe"]) for rows in (test, noise))
    name = "accuracy_by_strength_on_held_out_train_rows"
    assert honest["protocols"]["linear_probe"][name] == blind["protocols"]["linear_probe"][name]
    assert honest["protocols"]["linear_probe"]["strength"] == blind["protocols"]["linear_probe"]["strength"]
    assert honest["scores"] != blind["scores"]


def test_a_label_in_the_test_rows_alone_teaches_nothing() -> None:
    """Random vectors against random labels: a probe that peeked would do far better than 1 in 4."""

    class Noise(ImageModel):
        def embed(self, batch: Any) -> torch.Tensor:
            seeds = (batch["image"].double().sum((1, 2, 3)) * 1e6).long() % 2**31
            draws = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
            return torch.stack([torch.randn(64, generator=draw) for draw in draws])

    found = evaluate(Noise(), _rows(400, columns=("image", "label")), protocols=["knn", "linear_probe"])
    assert abs(found["scores"]["linear_probe/accuracy"] - 0.25) < 0.15  # 80 rows: three standard errors
    assert abs(found["scores"]["knn/accuracy"] - 0.25) < 0.15


def test_held_out_rows_are_a_fifth_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    mask = held_out_rows(labels, 0)
    assert [int(mask[labels == label].sum()) for label in range(3)] == [10, 2, 0]
    assert torch.equal(mask, held_out_rows(labels, 0))
    assert not torch.equal(mask, held_out_rows(labels, 1))


def test_classes_are_matched_by_name_not_by_number() -> None:
    train = _rows(60, 1, ("image", "label"))
    names = ["yellow", "red"]
    test_rows = [
        {"id": row["id"], "image": row["image"], "label": names.index(list(COLOURS)[row["label"]])}
        for row in coloured(80, 2)
        if list(COLOURS)[row["label"]] in names
    ]
    test = Rows.from_list(test_rows, name="two", class_names=names)
    found = evaluate(PairModel(COLOURS), test, train_data=train, protocols=["knn", "linear_probe"])
    assert found["scores"]["knn/accuracy"] == 1.0
    assert found["scores"]["linear_probe/accuracy"] == 1.0


def test_retrieval_counts_variants_of_one_thing_as_equally_right() -> None:
    rows = _rows(40, columns=("image", "text"))
    alone = evaluate(PairModel(COLOURS), rows, protocols=["retrieval"])
    grouped = Rows.from_list([dict(row) | {"group": row["text"].split()[1]} for row in rows], name="cards")
    together = evaluate(PairModel(COLOURS), grouped, protocols=["retrieval"])
    assert alone["protocols"]["retrieval"]["groups"] == 40
    assert together["protocols"]["retrieval"]["groups"] == 4
    assert together["scores"]["retrieval/text_to_image_recall@1"] == 1.0
    assert alone["scores"]["retrieval/text_to_image_recall@1"] < 0.5
    assert alone["chance"]["retrieval/text_to_image_recall@10"] == pytest.approx(10 / 40)
    assert together["chance"]["retrieval/image_to_text_recall@1"] == pytest.approx(10 / 40)


def test_sts_and_passages_for_a_text_model() -> None:
    texts = [row["text"] for row in sentences(60)]
    pairs = [
        {
            "text": a,
            "other": b if n % 2 else a,
            "score": float(n % 2 == 0) * 5 + n / 100,
            "subset": "xy"[n % 3 == 0],
        }
        for n, (a, b) in enumerate(zip(texts[:30], texts[30:], strict=True))
    ]
    found = evaluate(TextModel(), pairs)
    assert found["scores"]["sts/spearman"] > 0.5
    assert {"sts/spearman_x", "sts/spearman_y", "sts/spearman_mean"} <= set(found["scores"])
    assert found["chance"]["sts/spearman"] == 0.0
    asked = evaluate(TextModel(), [{"query": text, "positive": text} for text in texts])
    assert asked["scores"]["retrieval/mrr"] == 1.0
    assert asked["scores"]["retrieval/ndcg@10"] == 1.0
    assert asked["chance"]["retrieval/recall@10"] == pytest.approx(10 / 60)


def test_settings_of_a_protocol_can_be_given() -> None:
    found = evaluate(PairModel(COLOURS), _rows(), protocols={"few_shot": {"shots": [2], "episodes": 5}, "knn": None})
    assert "few_shot/2_shot_accuracy" in found["scores"]
    assert found["protocols"]["few_shot"]["settings"]["episodes"] == 5
    assert set(found["protocols"]) == {"few_shot", "knn"}


def test_bad_rows_are_counted_and_listed() -> None:
    rows = coloured(40)
    rows[7]["image"] = b"<html>not a picture</html>"
    found = evaluate(PairModel(COLOURS), Rows.from_list(rows, class_names=list(COLOURS)))
    assert [row["id"] for row in found["skipped"]] == ["p7"]
    assert found["scores"]["zero_shot/accuracy"] == 1.0


def test_builtin_sets_use_their_own_splits() -> None:
    found = evaluate(ImageModel(), "digits", protocols=["knn"])
    assert found["data"]["split"] == "test"
    assert found["train_data"]["source"] == "digits, split train"
    assert found["scores"]["knn/accuracy"] > 0.7  # random convolutions on digits
    assert found["chance"]["knn/accuracy"] == pytest.approx(0.1)


def test_classifiers_are_scored_by_their_own_answers() -> None:
    class Classifier(PairModel):
        class_names = ["blue", "green", "red", "yellow"]

        def classify(self, rows: Any) -> torch.Tensor:
            means = torch.stack([self.preprocess()(row)["image"].mean((1, 2)) for row in rows])
            colours = torch.tensor([COLOURS[name] for name in self.class_names], dtype=torch.float32)
            return (-((means[:, None] - colours[None]) ** 2).sum(2) * 9).softmax(1)

    rows = coloured(41)
    rows[3]["image"] = b"broken"
    found = evaluate(Classifier(COLOURS), Rows.from_list(rows, class_names=list(COLOURS)), protocols=["classification"])
    assert found["scores"]["classification/accuracy"] == 1.0
    assert found["protocols"]["classification"]["accuracy_by_class"] == dict.fromkeys(Classifier.class_names, 1.0)
    assert found["protocols"]["classification"]["rows"] == 40
    assert [row["id"] for row in found["skipped"]] == ["p3"]


def test_errors_say_what_to_do() -> None:
    model = ImageModel()
    with pytest.raises(ValueError, match="no protocol is called 'knnn'; there are .*classification, .*few_shot"):
        evaluate(model, _rows(), protocols=["knnn"])
    with pytest.raises(ValueError, match="Knn has no 'neighbours'"):
        evaluate(model, _rows(), protocols={"knn": {"neighbours": 3}})
    with pytest.raises(ValueError, match="protocol 'sts' cannot be run on cards: needs the columns 'other'"):
        evaluate(model, _rows(), protocols=["sts"])
    with pytest.raises(ValueError, match="train_data rows has no column 'label'; found image"):
        evaluate(model, _rows(), train_data=[{"image": b"x"}])
    one = Rows.from_list([dict(row) | {"label": 0} for row in _rows()], name="one", class_names=["red"])
    with pytest.raises(ValueError, match="needs at least two classes, found 1"):
        evaluate(model, one, protocols=["knn"])
    with pytest.raises(ValueError, match="data is needed"):
        evaluate(model)
    with pytest.raises(TypeError, match="model must be a run directory or a system, got dict"):
        evaluate({}, _rows())
