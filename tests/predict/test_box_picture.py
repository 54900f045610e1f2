"""Boxes over a cloud, from above: what lies ahead is up, what lies to the left is left."""

from __future__ import annotations

from typing import Any

import numpy as np

from counterpoint.predict.box_picture import draw_boxes
from counterpoint.predict.overlay import class_colours

CLOUD = {"xyz": np.array([[x, y, 0.1 * x] for x in np.linspace(-10, 10, 41) for y in np.linspace(-10, 10, 41)])}


def _box(x: float, y: float, label: str, yaw: float = 0.0) -> dict[str, Any]:
    return {"centre": [x, y, 0.0], "size": [4.0, 2.0, 1.5], "yaw": yaw, "label": label, "score": 1.0}


def _painted(picture: np.ndarray, number: int) -> np.ndarray:
    """(N, 2) rows and columns in the colour of a class."""
    return np.argwhere((picture == class_colours(2)[number]).all(axis=2))


def test_boxes_are_drawn_where_they_lie() -> None:
    picture = draw_boxes(CLOUD, [_box(6, 4, "car"), _box(-5, -5, "bike", np.pi / 2)], ["bike", "car"], 420)
    assert picture.shape == (420, 420, 3) and picture.dtype == np.uint8
    car, bike = _painted(picture, 1), _painted(picture, 0)
    scale = 419 / 21
    np.testing.assert_allclose(car.min(axis=0), 209.5 - scale * np.array([8, 5]), atol=2)
    np.testing.assert_allclose(car.max(axis=0), 209.5 - scale * np.array([4, 3]), atol=2)
    np.testing.assert_allclose(bike.min(axis=0), 209.5 - scale * np.array([-4, -3]), atol=2)
    np.testing.assert_allclose(bike.max(axis=0), 209.5 - scale * np.array([-6, -7]), atol=2)


def test_the_line_in_a_box_points_to_its_front() -> None:
    for yaw, (down, right) in ((0.0, (-1, 0)), (np.pi / 2, (0, -1))):
        picture = draw_boxes(CLOUD, [_box(0, 0, "car", yaw)], ["car"], 420)
        painted = {tuple(pixel) for pixel in _painted(picture, 0)}
        step = np.array([down, right]) * 20
        assert any((209 + step[0] + i, 209 + step[1] + j) in painted for i in (-1, 0, 1) for j in (-1, 0, 1))
        assert not any((209 - step[0] + i, 209 - step[1] + j) in painted for i in (-1, 0, 1) for j in (-1, 0, 1))


def test_a_box_beyond_the_points_is_seen_and_none_is_fine() -> None:
    far = draw_boxes(CLOUD, [_box(40, 0, "car")], ["car"], 300)
    assert len(_painted(far, 0)) > 20
    assert draw_boxes(CLOUD, [], ["car"], 300).max() > 100, "the points are seen"
