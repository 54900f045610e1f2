"""Average precision of boxes: by hand, against a slow reference, and through the protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from counterpoint.data import Rows
from counterpoint.evaluation.detection import average_precision, matched
from counterpoint.evaluation.evaluate import evaluate


def _array(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_the_best_answer_takes_the_nearest_thing() -> None:
    true = _array([0, 0], [10, 0])
    found, scores = _array([0.5, 0], [0.1, 0], [10, 0.9], [10, 5]), _array(0.9, 0.8, 0.7, 0.6)
    assert matched(found, scores, true, 1.0).tolist() == [True, False, True, False]
    assert matched(found, scores[::-1].copy(), true, 1.0).tolist() == [False, True, True, False]
    # Exactly at the distance is not nearer.
    assert matched(_array([1.0, 0]), _array(0.5), _array([0, 0]), 1.0).tolist() == [False]
    # The nearest is taken, so that the next answer finds the other thing.
    assert matched(_array([1.0, 0], [2.0, 0]), _array(0.9, 0.8), _array([0, 0], [1.2, 0]), 3.0).tolist() == [True, True]
    assert matched(_array([1.0, 0]), _array(0.5), np.zeros((0, 2)), 1.0).tolist() == [False]
    assert matched(np.zeros((0, 2)), np.zeros(0), _array([0, 0]), 1.0).tolist() == []


@pytest.mark.parametrize(
    ("hits", "scores", "things", "wanted"),
    [
        ([1, 1], [0.9, 0.8], 2, 1.0),
        ([1], [0.9], 2, 0.5),
        ([0, 1], [0.9, 0.8], 1, 0.5),  # right at the second try
        ([1, 0, 1], [0.9, 0.8, 0.7], 2, 0.5 + 0.5 * 2 / 3),
        ([1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6], 4, 0.25 + 0.25 / 2),
        ([0, 1, 1], [0.9, 0.8, 0.7], 2, 2 / 3),  # precision 1/2 at recall 1/2, but 2/3 beyond it
        ([1, 0], [0.5, 0.5], 1, 0.5),  # equal scores come together
        ([0, 1], [0.5, 0.5], 1, 0.5),
        ([0, 0], [0.9, 0.8], 3, 0.0),
        ([], [], 3, 0.0),
    ],
)
def test_area_by_hand(hits: list[int], scores: list[float], things: int, wanted: float) -> None:
    found = average_precision([np.array(hits, dtype=bool)], [np.array(scores)], things)
    assert found == pytest.approx(wanted)


def test_without_things_there_is_no_figure() -> None:
    assert math.isnan(average_precision([np.array([True])], [np.array([1.0])], 0))


def _slow(clouds: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], distance: float) -> float:
    """Every threshold by itself: who is right above it, the best precision at each recall or above."""
    things = sum(len(true) for _, _, true in clouds)
    points = []
    for threshold in sorted({score for _, scores, _ in clouds for score in scores.tolist()}, reverse=True):
        right = answers = 0
        for found, scores, true in clouds:
            taken: set[int] = set()
            order = [n for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n)) if scores[n] >= threshold]
            answers += len(order)
            for number in order:
                free = [(math.dist(found[number], thing), n) for n, thing in enumerate(true) if n not in taken]
                if free and min(free)[0] < distance:
                    taken.add(min(free)[1])
                    right += 1
        points.append((right / things, right / answers))
    area, before = 0.0, 0.0
    for recall, _ in points:
        best = max(precision for other, precision in points if other >= recall)
        area += (recall - before) * best
        before = recall
    return area


def test_equals_a_slow_reference() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        clouds = []
        for _ in range(int(rng.integers(1, 5))):
            count, things = int(rng.integers(0, 8)), int(rng.integers(1, 5))
            scores = rng.integers(1, 6, count) / 5  # many are equal
            clouds.append((rng.uniform(0, 6, (count, 2)), scores, rng.uniform(0, 6, (things, 2))))
        hits = [matched(found, scores, true, 1.5) for found, scores, true in clouds]
        total = sum(len(true) for _, _, true in clouds)
        ours = average_precision(hits, [scores for _, scores, _ in clouds], total)
        assert ours == pytest.approx(_slow(clouds, 1.5), abs=1e-12)


class _Model:
    """Says what it was given for a row; knows two classes and sees 10 m."""

    class_names = ("car", "tram")

    def __init__(self, answers: dict[str, list[dict[str, Any]]]) -> None:
        self.answers = answers

    def detect(self, rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        return iter([self.answers[row["id"]] for row in rows])


def _box(x: float, label: str, **more: Any) -> dict[str, Any]:
    return {"centre": [x, 0.0, 0.0], "size": [4.0, 2.0, 1.5], "yaw": 0.0, "label": label, **more}


def _rows() -> Rows:
    points = np.zeros((4, 3), np.float32)
    boxes = {"a": [_box(1, "car"), _box(5, "car"), _box(50, "car"), _box(3, "bird")], "b": [_box(2, "tram")], "c": None}
    rows = [{"id": name, "points": points, "boxes": found} for name, found in boxes.items()]
    return Rows.from_list([*rows, {"id": "d", "points": points, "boxes": [{"centre": "here"}]}], name="street")


def _answers() -> dict[str, list[dict[str, Any]]]:
    a = [_box(1.7, "car", score=0.9), _box(60, "car", score=0.95), _box(8, "tram", score=0.3)]
    return {"a": a, "b": [_box(2.2, "tram", score=0.8)], "c": [], "d": []}


def test_the_protocol_by_hand() -> None:
    settings = {"detection": {"distances": [0.5, 1.0], "reach": 10.0}}
    found = evaluate(_Model(_answers()), _rows(), protocols=settings)
    scores = {name.removeprefix("detection/"): value for name, value in found["scores"].items()}
    # One of two cars within reach, 0.7 m off; the tram is 0.2 m off, and another answer comes later.
    wanted = {"mean_ap": (0 + 0.5 + 1 + 1) / 4, "ap_car": 0.25, "ap_tram": 1.0, "ap_at_0.5": 0.5, "ap_at_1": 0.75}
    assert scores == pytest.approx(wanted)
    assert set(found["chance"].values()) == {0.0}
    notes = found["protocols"]["detection"]
    assert notes["things"] == {"car": 2, "tram": 1} and notes["clouds"] == 2


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValueError, match="give reach, in metres"):
        evaluate(_Model(_answers()), _rows(), protocols=["detection"])
    with pytest.raises(ValueError, match="needs boxes of car, tram"):
        evaluate(_Model(_answers()), _rows(), protocols={"detection": {"reach": 0.5}})
    with pytest.raises(ValueError, match="'boxes'"):
        evaluate(_Model(_answers()), Rows.from_list([{"points": np.zeros((3, 3))}]), protocols=["detection"])
    with pytest.raises(ValueError, match="distances and reach must be above 0"):
        evaluate(_Model(_answers()), _rows(), protocols={"detection": {"distances": [0.0]}})
