"""Clouds with boxes: points stay where they are in their box, whatever is drawn; bad boxes are named."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from counterpoint.data import BadRow
from counterpoint.views.boxes import BoxedCloud, read_boxes

CLASSES = ("car", "tram")
BOX = {"centre": [4.0, 2.0, 0.5], "size": [4.0, 2.0, 1.5], "yaw": 0.4, "label": "car"}


def _local(points: np.ndarray, centre: np.ndarray, yaw: float) -> np.ndarray:
    """Points (N, 3) along the sides of a box."""
    way = points - centre
    cosine, sine = math.cos(yaw), math.sin(yaw)
    along, across = cosine * way[:, 0] + sine * way[:, 1], cosine * way[:, 1] - sine * way[:, 0]
    return np.stack([along, across, way[:, 2]], axis=1)


def _row() -> dict[str, Any]:
    local = np.array([[1.5, 0.7, 0.2], [-1.0, -0.9, -0.5], [0.0, 0.0, 0.7], [1.9, -0.2, 0.0]])
    cosine, sine = math.cos(0.4), math.sin(0.4)
    turned = local @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]) + [4.0, 2.0, 0.5]
    return {"id": "a", "points": turned.astype(np.float32), "boxes": [BOX, {**BOX, "label": "bus"}]}


def test_points_keep_their_place_in_a_box() -> None:
    view, flipped = BoxedCloud(rotation=180, flip=0.5, drop=0.0, scale=(0.8, 1.2), classes=CLASSES), set()
    before = _local(_row()["points"], np.array(BOX["centre"]), 0.4)
    for seed in range(20):
        sample = view(_row(), np.random.default_rng(seed))
        boxes = {name: value.numpy()[0] for name, value in sample["boxes"].items()}
        found = _local(sample["points"]["xyz"].numpy(), boxes["xyz"], float(boxes["yaw"]))
        scale = float(boxes["size"][0]) / 4.0
        assert 0.8 <= scale <= 1.2
        mirrored = found[0, 1] * before[0, 1] < 0
        wanted = scale * before * np.where(mirrored, [1, -1, 1], [1, 1, 1])
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        np.testing.assert_allclose(boxes["size"], scale * np.array(BOX["size"]), rtol=1e-5)
        flipped.add(bool(mirrored))
    assert flipped == {True, False}


def test_only_boxes_of_the_classes_are_taken() -> None:
    boxes = read_boxes({"boxes": [BOX, {**BOX, "label": "bus"}, {**BOX, "label": 1}, {**BOX, "label": 7}]}, CLASSES)
    assert boxes["label"].tolist() == [0, 1]
    empty = read_boxes({"boxes": []}, CLASSES)
    assert {name: value.shape for name, value in empty.items()} == {
        "xyz": (0, 3),
        "size": (0, 3),
        "yaw": (0,),
        "label": (0,),
    }


def test_drop_thins_the_cloud_and_the_view_travels() -> None:
    row = {**_row(), "points": np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)}
    view = BoxedCloud(drop=0.3, points=500, classes=CLASSES)
    sample = pickle.loads(pickle.dumps(view))(row, np.random.default_rng(0))
    assert len(sample["points"]["xyz"]) == 500
    assert len(BoxedCloud(drop=0.3, classes=CLASSES)(row, np.random.default_rng(0))["points"]["xyz"]) == 700


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({"centre": 1}, "a list of boxes"),
        ("none", "a list of boxes"),
        (None, "a list of boxes"),
        ([3], "no mapping with centre"),
        ([{"centre": [0, 0, 0]}], "no mapping with centre"),
        ([{**BOX, "centre": [1, 2]}], "'centre': 3 finite numbers"),
        ([{**BOX, "size": [1, math.nan, 1]}], "'size': 3 finite numbers"),
        ([{**BOX, "size": [1, 0, 1]}], "side of 0"),
        ([{**BOX, "yaw": "left"}], "'yaw': 1 finite number$"),
    ],
)
def test_bad_boxes_are_named(boxes: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        read_boxes({"boxes": boxes}, CLASSES)


@pytest.mark.parametrize("settings", [{"scale": (0.0, 1.0)}, {"flip": 2.0}, {"drop": 1.0}, {"points": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        BoxedCloud(**settings)
