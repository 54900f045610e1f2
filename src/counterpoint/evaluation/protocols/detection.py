"""How well a model finds the boxes of things in clouds of points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from counterpoint.data import BadRow
from counterpoint.evaluation.detection import average_precision, matched
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task
from counterpoint.views.boxes import read_boxes

__all__ = ["Detection"]

_Boxes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Centres (M, 2), labels (M,) and scores (M,)."""


@dataclass
class _Found:
    """Hits and scores of one class at one distance, cloud by cloud."""

    hits: list[np.ndarray] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    things: int = 0


@dataclass(frozen=True)
class Detection(Protocol):
    """Average precision of boxes seen from above: an answer is right when its centre is near that of a thing.

    As nuScenes has it, a class's figure is the mean over the distances; `mean_ap` is the mean over the classes that the
    data hold. Things and answers centred outside the range count for nothing.

    Attributes:
        distances: metres.
        reach: range in x and y, metres; None takes that of the model's encoder.
    """

    columns: ClassVar[tuple[str, ...]] = ("points", "boxes")

    distances: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    reach: float | None = None

    def __post_init__(self) -> None:
        if not self.distances or min(self.distances) <= 0 or (self.reach is not None and self.reach <= 0):
            raise ValueError(f"distances and reach must be above 0, got {self.distances} and {self.reach}")

    def run(self, task: Task) -> Measured:
        """`mean_ap`, `ap_CLASS` and `ap_at_DISTANCE`; a guesser finds nothing."""
        if not hasattr(task.system, "detect"):
            raise NotApplicable("needs a model that detects things (method detect)")
        names: Sequence[str] = task.system.class_names
        low, high = self._range(task.system)
        found = {(name, distance): _Found() for name in names for distance in self.distances}
        clouds = 0
        for position, row in enumerate(task.rows.scan(1)):
            try:
                if isinstance(row, BadRow):
                    raise row
                if row["boxes"] is None:
                    continue
                true = _within(_true(row, names), low, high)
                (answers,) = task.system.detect([row])
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
                continue
            clouds += 1
            _add(found, names, true, _within(_answered(answers, names), low, high))
        if not any(one.things for one in found.values()):
            raise NotApplicable(f"needs boxes of {', '.join(names)} within the range of the model")
        return self._measured(found, names, {"clouds": clouds, "low": low.tolist(), "high": high.tolist()})

    def _range(self, system: Any) -> tuple[np.ndarray, np.ndarray]:
        """Corners (2,) of what counts."""
        if self.reach is not None:
            return np.full(2, -self.reach), np.full(2, self.reach)
        grid = getattr(getattr(system, "encoder", None), "grid", None)
        if grid is None:
            raise NotApplicable("needs the range that counts: give reach, in metres")
        return np.array(grid.low[:2]), np.array(grid.high[:2])

    def _measured(
        self, found: Mapping[tuple[str, float], _Found], names: Sequence[str], notes: dict[str, Any]
    ) -> Measured:
        precision = {key: average_precision(one.hits, one.scores, one.things) for key, one in found.items()}
        present = [name for name in names if found[name, self.distances[0]].things]
        scores = {"mean_ap": _mean([precision[name, d] for name in present for d in self.distances])}
        scores |= {f"ap_{name}": _mean([precision[name, d] for d in self.distances]) for name in present}
        scores |= {f"ap_at_{d:g}": _mean([precision[name, d] for name in present]) for d in self.distances}
        things = {name: found[name, self.distances[0]].things for name in names}
        by_class = {name: {f"{d:g}": precision[name, d] for d in self.distances} for name in present}
        return Measured(scores, dict.fromkeys(scores, 0.0), {**notes, "things": things, "ap": by_class})


def _add(found: Mapping[tuple[str, float], _Found], names: Sequence[str], true: _Boxes, answers: _Boxes) -> None:
    """One more cloud."""
    for (name, distance), one in found.items():
        code = list(names).index(name)
        wanted, ours = true[0][true[1] == code], answers[1] == code
        one.hits.append(matched(answers[0][ours], answers[2][ours], wanted, distance))
        one.scores.append(answers[2][ours])
        one.things += len(wanted)


def _true(row: Mapping[str, Any], names: Sequence[str]) -> _Boxes:
    boxes = read_boxes(dict(row), names)
    return boxes["xyz"][:, :2].astype(np.float64), boxes["label"], np.ones(len(boxes["label"]))


def _answered(answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> _Boxes:
    places = {name: code for code, name in enumerate(names)}
    centres = np.array([box["centre"][:2] for box in answers], dtype=np.float64).reshape(-1, 2)
    labels = np.array([places[box["label"]] for box in answers], dtype=np.int64)
    return centres, labels, np.array([box["score"] for box in answers], dtype=np.float64)


def _within(boxes: _Boxes, low: np.ndarray, high: np.ndarray) -> _Boxes:
    kept = ((boxes[0] >= low) & (boxes[0] < high)).all(axis=1)
    return boxes[0][kept], boxes[1][kept], boxes[2][kept]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known)
