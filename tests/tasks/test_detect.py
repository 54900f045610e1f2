"""The task of detection: it learns boxes, takes over encoders, says what is missing, and predicts files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from counterpoint.cli import main
from counterpoint.data import Rows
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.run import Run, load
from counterpoint.tasks.detect import Detect
from counterpoint.training.train import train

NAME = "voxel8?range=8,-1,3&cell=1,1,2&levels=2"
VIEW = {"rotation": 20.0, "flip": 0.5, "drop": 0.1}


def _scene(seed: int) -> dict[str, Any]:
    """Ground, a long low box and two thin posts, all turned at random."""
    rng = np.random.default_rng(seed)
    boxes, parts = [], [np.column_stack([rng.uniform(-8, 8, (200, 2)), rng.normal(-0.8, 0.02, 200)])]
    for label, size in (("block", (3.0, 1.5, 1.0)), ("post", (0.4, 0.4, 2.5)), ("post", (0.4, 0.4, 2.5))):
        yaw, place = float(rng.uniform(-0.6, 0.6)), rng.uniform(-6, 6, 2)
        local = rng.uniform(-0.5, 0.5, (80, 3)) * size
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        height = size[2] / 2 - 0.8
        parts.append(np.column_stack([local[:, :2] @ turn.T + place, local[:, 2] + height]))
        boxes.append({"centre": [*place.tolist(), height], "size": list(size), "yaw": yaw, "label": label})
    return {"id": str(seed), "points": np.concatenate(parts).astype(np.float32), "boxes": boxes}


def _rows(seeds: range) -> Rows:
    return Rows.from_list([_scene(seed) for seed in seeds], name="scenes")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        "detect",
        _rows(range(24)),
        out=tmp_path_factory.mktemp("runs") / "detect",
        arguments={"encoder": NAME, "view": VIEW, "width": 32},
        overrides={"batch": 8, "steps": 120, "learning_rate": 1e-2},
        quiet=True,
    )


def test_it_finds_things_of_scenes_it_has_not_seen(run: Run) -> None:
    found = evaluate(run.path, _rows(range(100, 120)), protocols=["detection"])
    scores = found["scores"]
    assert scores["detection/ap_block"] > 0.7 and scores["detection/ap_post"] > 0.5
    assert scores["detection/ap_at_0.5"] <= scores["detection/ap_at_4"]
    assert found["chance"]["detection/mean_ap"] == 0.0


def test_boxes_have_the_size_place_and_turn_of_things(run: Run) -> None:
    system, errors = load(run.path), []
    for seed in range(200, 210):
        row = _scene(seed)
        (answers,) = system.detect([row])
        assert [box["score"] for box in answers] == sorted((box["score"] for box in answers), reverse=True)
        best = next(box for box in answers if box["label"] == "block")
        true = row["boxes"][0]
        turn = abs(math.remainder(best["yaw"] - true["yaw"], math.pi))
        errors.append([math.dist(best["centre"], true["centre"]), math.dist(best["size"], true["size"]), turn])
    centre, size, turn = np.median(errors, axis=0)
    assert centre < 0.5 and size < 0.3 and turn < 0.35


def test_rows_are_answered_by_themselves(run: Run) -> None:
    system = load(run.path)
    rows = [_scene(seed) for seed in (300, 301)]
    assert list(system.detect(rows))[1] == next(iter(system.detect(rows[1:])))
    assert system.training is False


def test_an_encoder_is_taken_over(run: Run, tmp_path: Path) -> None:
    again = Detect(f"run:{run.path}", classes=("block", "post"), width=8)
    before = load(run.path).encoder.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.encoder.state_dict().items())
    assert again.encoder.grid.cell == (1.0, 1.0, 2.0)
    frozen = Detect(f"run:{run.path}", classes=("block",), trainable="none", encoder_rate=0.5)
    assert not any(p.requires_grad for p in frozen.encoder.parameters())
    scales = [group.get("scale", 1.0) for group in again.parameter_groups()]
    assert set(scales) == {1.0}
    slow = Detect(NAME, classes=("block",), encoder_rate=0.5)
    assert {group.get("scale", 1.0) for group in slow.parameter_groups()} == {1.0, 0.5}


def test_classes_are_those_of_the_boxes_or_those_given() -> None:
    assert Detect(NAME).prepare(_rows(range(2))) == {"classes": ["block", "post"]}
    system = Detect(NAME, classes=("post",))
    assert system.prepare(_rows(range(2))) == {"classes": ["post"]}
    sample = system.views()(_scene(0), np.random.default_rng(0))
    assert sample["boxes"]["label"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="none of its boxes is a tram; there are block, post"):
        Detect(NAME, classes=("tram",)).prepare(_rows(range(2)))
    numbered = [{**_scene(0), "boxes": [{**_scene(0)["boxes"][0], "label": 1}]}]
    with pytest.raises(ValueError, match="give classes, in the order of their numbers"):
        Detect(NAME).prepare(Rows.from_list(numbered))
    given = Detect(NAME, classes=("a", "b"))
    assert given.views()(numbered[0], np.random.default_rng(0))["boxes"]["label"].tolist() == [1]


def test_targets_lie_where_the_boxes_are() -> None:
    system = Detect(NAME, classes=("block", "post"), view=Detect(NAME).view)
    row = {"id": "a", "points": np.zeros((4, 3), np.float32), "boxes": [_scene(0)["boxes"][0], _scene(0)["boxes"][1]]}
    row["boxes"][0] |= {"centre": [2.3, -4.9, 0.1]}
    row["boxes"][1] |= {"centre": [50.0, 0.0, 0.0]}
    view = {"rotation": 0.0, "scale": (1.0, 1.0), "flip": 0.0, "drop": 0.0, "classes": ("block", "post")}
    sample = type(system.view)(**view)(row, np.random.default_rng(0))
    features = system.encode(system.collate([sample]))
    assert features["counted"].tolist() == [[True, False]], "what lies beyond the range is left out"
    heat = features["heat"][0, 0]
    assert heat.shape == (16, 16) and float(heat[3, 10]) == 1.0 and int((heat == 1).sum()) == 1
    assert not features["heat"][0, 1].any()
    wanted = features["wanted"][0, 0].tolist()
    logs = [math.log(side) for side in row["boxes"][0]["size"]]
    yaw = row["boxes"][0]["yaw"]
    assert wanted == pytest.approx([0.3, 0.1, 0.1, *logs, math.sin(yaw), math.cos(yaw)], abs=1e-4)


def test_a_batch_without_boxes_still_teaches() -> None:
    system = Detect(NAME, classes=("block", "post"))
    view = system.views()
    empty = system.collate([view({**_scene(seed), "boxes": []}, np.random.default_rng(seed)) for seed in range(2)])
    terms = system.loss(system.encode(empty))
    assert float(terms["box"].total.detach()) == 0.0  # type: ignore[union-attr]
    terms["centre"].total.backward()  # type: ignore[union-attr]
    gradient = system.head.heat.bias.grad
    assert gradient is not None and (gradient > 0).all(), "it learns that nothing is there"


def test_files_are_predicted_from_the_command_line(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    scan = _scene(400)["points"]
    np.column_stack([scan, np.zeros(len(scan))]).astype("<f4").tofile(folder / "000001.bin")
    np.save(folder / "other.npy", scan)
    (folder / "broken.bin").write_bytes(b"123")
    assert main(["predict", str(run.path), str(folder), "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["000001.bin", "other.npy"]
    assert lines[0]["boxes"][0]["label"] in ("block", "post") and len(lines[0]["boxes"][0]["size"]) == 3
    assert [box["score"] for box in lines[0]["boxes"]] == pytest.approx([box["score"] for box in lines[1]["boxes"]])
    with Image.open(tmp_path / "out" / lines[0]["from_above"]) as picture:
        assert picture.size == (900, 900)
    (skipped,) = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert "broken.bin" in skipped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "car"}, "classes must be names"),
        ({"classes": ("car", "car")}, "classes must be names"),
        ({"width": 0}, "width"),
        ({"least": 1.0}, "least"),
        ({"encoder_rate": 0.0}, "encoder_rate"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detect(NAME, **arguments)
