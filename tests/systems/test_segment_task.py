"""The task of segmenting points: it learns, it takes over encoders, it says what is missing, it predicts files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import Rows
from counterpoint.data.ply import write_ply
from counterpoint.data.scans import read_points
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.point_segmenting import segmented_cloud
from counterpoint.run import Run, load
from counterpoint.tasks.segment import Segment
from counterpoint.training.train import train
from counterpoint.views.labelled_points import LabelledPoints
from counterpoint.views.points import PointViews

NAME = "voxel8?range=8,-1,4&cell=1,1,0.5&levels=2"
VIEW = LabelledPoints(PointViews(crop=(1.0, 1.0), drop=0.1))


def _scene(seed: int, shift: float = 0.0) -> dict[str, Any]:
    """Ground (0), low wide blocks (1), thin posts (2); a fifth of the ground is not to count."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-7, 7, (300, 2)), rng.normal(0, 0.02, 300)])
    low = [rng.uniform(-1, 1, (60, 3)) * [1, 1, 0.4] + [*rng.uniform(-6, 6, 2), 0.5] for _ in range(2)]
    post = [rng.uniform(-0.1, 0.1, (40, 3)) * [1, 1, 18] + [*rng.uniform(-6, 6, 2), 1.8] for _ in range(2)]
    mask = np.repeat([0, 1, 2], [300, 120, 80])
    mask[:60] = 255
    points = np.concatenate([ground, *low, *post]) + [shift, 0, 0]
    return {"id": str(seed), "points": points.astype(np.float32), "mask": mask}


def _rows(seeds: range) -> Rows:
    return Rows.from_list([_scene(seed) for seed in seeds], name="scenes", class_names=["ground", "block", "post"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(
        "segment",
        _rows(range(12)),
        out=tmp_path_factory.mktemp("runs") / "segment",
        arguments={"encoder": NAME, "view": VIEW},
        overrides={"batch": 4, "steps": 60, "learning_rate": 2e-2},
        quiet=True,
    )


def test_it_learns_what_things_look_like(run: Run) -> None:
    found = evaluate(run.path, _rows(range(100, 106)), protocols=["point_segmentation"])
    scores, chance = found["scores"], found["chance"]
    assert scores["point_segmentation/mean_iou"] > 0.7 > chance["point_segmentation/mean_iou"] + 0.3
    assert scores["point_segmentation/foreground_mean_iou"] > 0.6
    assert chance["point_segmentation/foreground_mean_iou"] == 0


def test_a_cloud_wider_than_the_grid_is_segmented_in_tiles(run: Run) -> None:
    system = load(run.path)
    here, far = _scene(200), _scene(200, shift=160.0)  # ten tiles of 16 m away
    both = {"id": "b", "points": np.concatenate([here["points"], far["points"]])}
    alone, _ = segmented_cloud(system, here), None
    _, together = segmented_cloud(system, both)
    np.testing.assert_array_equal(together[:500], alone[1])
    np.testing.assert_array_equal(together[500:], alone[1])


def test_padding_and_company_change_no_answer(run: Run) -> None:
    system = load(run.path).eval()
    prepare = system.preprocess()
    scenes = [prepare(_scene(seed)) for seed in (300, 301)]
    scenes[1]["points"] = {name: value[:200] for name, value in scenes[1]["points"].items()}
    batch = system.collate(scenes)
    labels = system.segment(batch["points"])
    assert labels.shape == (2, 500)
    for number, scene in enumerate(scenes):
        alone = system.segment(system.collate([scene])["points"])
        assert torch.equal(labels[number, : alone.shape[1]], alone[0])
    assert not labels[1, 200:].any()


def test_an_encoder_of_a_run_is_taken_over_and_may_stay_as_it_is(run: Run) -> None:
    source = load(run.path)
    system = Segment(f"run:{run.path}", trainable="none")
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(system.encoder.state_dict()[name], value)
    assert {n for n, p in system.named_parameters() if p.requires_grad} == {"head_weight", "head_bias"}
    with pytest.raises(ValueError, match="keeps the options it was trained with"):
        Segment(f"run:{run.path}?levels=3")


def test_predict_writes_labelled_clouds_and_pictures(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scans" / "LIDAR_TOP"
    folder.mkdir(parents=True)
    scene = _scene(7)
    five = np.column_stack([scene["points"], np.ones(500), np.arange(500) % 8]).astype("<f4")
    five[3, 0] = np.nan
    (folder / "a.pcd.bin").write_bytes(five.tobytes())
    (folder / "broken.pcd.bin").write_bytes(b"short")
    command = [sys.executable, "-m", "counterpoint.cli", "predict", str(run.path), str(folder), "--out"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert line["id"] == "a.pcd.bin" and line["points"] == 499 and line["left_out"] == 1
    assert sum(found["share"] for found in line["classes"]) == pytest.approx(1)
    assert {found["label"] for found in line["classes"]} <= {"ground", "block", "post"}
    written = read_points(tmp_path / "out" / line["cloud"])
    np.testing.assert_allclose(written["xyz"], np.delete(scene["points"], 3, axis=0), atol=1e-6)
    right = written["label"] == np.delete(scene["mask"], 3)
    assert right[np.delete(scene["mask"], 3) != 255].mean() > 0.7
    assert (tmp_path / "out" / line["view"]).read_bytes().startswith(b"\x89PNG")
    assert "broken.pcd.bin" in (tmp_path / "out" / "skipped.jsonl").read_text()


def test_rare_classes_weigh_more() -> None:
    system = Segment(NAME, view=VIEW, balance=0.5)
    facts = system.prepare(_rows(range(4)))
    assert facts == {"class_names": ["ground", "block", "post"], "counts": [960, 480, 320]}
    system.use(facts)
    weights = system.class_weights
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(2.0).sqrt())
    assert float((weights * torch.tensor(facts["counts"])).sum() / 1760) == pytest.approx(1)
    level = Segment(NAME, view=VIEW, balance=0.0)
    level.use(facts)
    torch.testing.assert_close(level.class_weights, torch.ones(3))
    batch = level.collate(
        [level.views()(_scene(0), np.random.default_rng(0)), level.views()(_scene(1), np.random.default_rng(1))]
    )
    term = level.loss(level.encode(batch))["cross_entropy"]
    label = batch["points"]["label"]
    assert float(term.count) == int((batch["points"]["valid"] & (label != 255)).sum())
    torch.testing.assert_close(term.total / term.count, torch.tensor(3.0).log(), atol=1e-5, rtol=0)


def test_files_that_hold_their_classes_need_no_mask(tmp_path: Path) -> None:
    rows = []
    for seed in range(2):
        scene = _scene(seed)
        path = write_ply(tmp_path / f"{seed}.ply", {"xyz": scene["points"], "label": scene["mask"]})
        rows.append({"id": str(seed), "points": path})
    facts = Segment(NAME).prepare(Rows.from_list(rows))
    assert facts["class_names"] == ["0", "1", "2"] and facts["counts"] == [480, 240, 160]


def test_what_cannot_be_learnt_is_refused() -> None:
    one = Rows.from_list([{**_scene(0), "mask": np.zeros(500, dtype=int)}])
    with pytest.raises(ValueError, match="at least two classes, found 1"):
        Segment(NAME).prepare(one)
    few = Rows.from_list([_scene(0)], class_names=["ground", "block"])
    with pytest.raises(ValueError, match="holds class 2, but there are only 2 class names"):
        Segment(NAME).prepare(few)
    with pytest.raises(ValueError, match="balance must be in"):
        Segment(NAME, balance=2.0)
    with pytest.raises(ValueError, match="encoder_rate must be above 0"):
        Segment(NAME, encoder_rate=0.0)
