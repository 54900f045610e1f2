"""The probe on points: it learns from the rows it does not score, and counts as the definition says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import Rows
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.evaluation.protocol import NotApplicable
from counterpoint.evaluation.protocols.point_segmentation import PointSegmentation
from counterpoint.evaluation.task import Task
from counterpoint.systems.fac import FAC
from counterpoint.views.points import PointCloud
from toy_models import ImageModel

NAMES = ["ground", "thing", "other"]


def _row(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(-3, 3, (90, 3))
    xyz[:30, 2], xyz[30:60, 2], xyz[60:, 2] = -0.9, 0.6, 1.8
    mask = np.repeat([0, 1, 2], 30)
    mask[0] = 255
    return {"id": str(seed), "points": xyz.astype(np.float32), "mask": mask}


class Answers(torch.nn.Module):
    """Says class 1 above 0 and class 0 below."""

    needs = ("points",)
    device = torch.device("cpu")

    def preprocess(self) -> PointCloud:
        return PointCloud()

    def segment(self, points: dict[str, torch.Tensor]) -> torch.Tensor:
        return (points["xyz"][..., 2] > 0).long()


def _rows(count: int, names: list[str] | None = NAMES) -> Rows:
    return Rows.from_list([_row(seed) for seed in range(count)], class_names=names)


def test_answers_of_a_model_are_counted_over_all_points() -> None:
    found = PointSegmentation().run(Task(Answers(), _rows(3)))
    # ground: all 87 right; thing: 90 right of 180 said; other: never said, 90 there
    assert found.scores["mean_iou"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.scores["foreground_mean_iou"] == pytest.approx(0.5), "'other' and 'ground' are background"
    assert found.scores["point_accuracy"] == pytest.approx(177 / 267)
    assert found.notes["iou_by_class"] == {"ground": 1.0, "thing": 0.5, "other": 0.0}
    assert found.notes["train_rows"] == 0 and found.notes["test_rows"] == 3
    nameless = PointSegmentation().run(Task(Answers(), _rows(3, None)))
    assert nameless.scores["foreground_mean_iou"] == pytest.approx(0.25), "without names all but class 0 is foreground"


def test_a_probe_reads_classes_off_frozen_features() -> None:
    torch.manual_seed(0)
    system = FAC(encoder="voxel8?range=4,-1.2,2.4&cell=0.6&levels=2", foreground=0.0)
    before = {name: value.clone() for name, value in system.state_dict().items()}
    found = PointSegmentation(learn=3, points=20).run(Task(system, _rows(8), seed=1))
    assert found.scores["mean_iou"] > 0.5 > found.chance["mean_iou"] + 0.2
    assert found.notes["train_rows"] == 3 and found.notes["test_rows"] == 5
    again = PointSegmentation(learn=3, points=20).run(Task(system, _rows(8), seed=1))
    assert again.scores == found.scores
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    scored = PointSegmentation(learn=3, points=20, most=2).run(Task(system, _rows(8), seed=1))
    assert scored.notes["test_rows"] == 2


def test_bad_rows_are_listed_and_left_out() -> None:
    rows = [_row(0), {**_row(1), "mask": np.zeros(5, dtype=int)}, {**_row(2), "points": b"no cloud"}]
    task = Task(Answers(), Rows.from_list(rows, class_names=NAMES))
    assert PointSegmentation().run(task).notes["test_rows"] == 1
    assert set(task.skipped) == {"1", "2"}


def test_what_does_not_apply_is_said() -> None:
    with pytest.raises(NotApplicable, match="reads point clouds"):
        PointSegmentation().run(Task(ImageModel(), _rows(2)))
    system = FAC(encoder="voxel4?range=4,-1,2&cell=1&levels=2", foreground=0.0)
    with pytest.raises(NotApplicable, match="more than learn=10 rows, found 2"):
        PointSegmentation().run(Task(system, _rows(2)))
    nothing = Rows.from_list([{**_row(0), "mask": np.full(90, 255)}])
    with pytest.raises(NotApplicable, match="whose class counts"):
        PointSegmentation().run(Task(Answers(), nothing))
    with pytest.raises(NotApplicable, match="at least two classes"):
        PointSegmentation(learn=1).run(
            Task(system, Rows.from_list([{**_row(n), "mask": np.ones(90, int)} for n in range(3)]))
        )


def test_rows_without_masks_are_no_case_for_it() -> None:
    rows = Rows.from_list([{"id": "a", "points": _row(0)["points"]}])
    with pytest.raises(ValueError, match="mask"):
        evaluate(Answers(), rows, protocols=["point_segmentation"])
