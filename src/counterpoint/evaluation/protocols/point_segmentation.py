"""How well points of 3-D scans are told apart: by the model itself, or by a linear map on its frozen features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow, Row
from counterpoint.data.scans import IGNORED
from counterpoint.encoders.points import PointEncoder
from counterpoint.evaluation.point_segmenting import point_features, segmented_cloud, takes_points
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.segmentation import confusion, segmentation_scores
from counterpoint.evaluation.task import Task
from counterpoint.views.labelled_points import classes_of

__all__ = ["PointSegmentation"]

STUFF = (
    "background,building,ceiling,fence,floor,ground,other,other-ground,parking,road,sidewalk,terrain,unlabeled,"
    "unlabelled,vegetation,wall"
)


@dataclass(frozen=True)
class PointSegmentation(Protocol):
    """Mean intersection over union of points' classes, counted over all points of all rows together.

    A model with `segment` is scored as it is. Of any other with a point encoder the features are frozen, and a logistic
    regression on them learns from a few rows that are then not scored. Points of class 255 count for nothing, classes
    that are neither there nor said are left out of the mean.

    Attributes:
        learn: rows, drawn with the seed, that the regression learns from.
        points: of a class in a row that it learns from, at most; rare classes thus weigh more than their points.
        most: rows, drawn with the seed, that are scored; None scores all.
        strength: scikit-learn's C, on standardised features.
        background: names of classes, with commas between, that `foreground_mean_iou` leaves out; without names it is
            class 0.
    """

    columns: ClassVar[tuple[str, ...]] = ("points", "mask")

    learn: int = 10
    points: int = 200
    most: int | None = None
    strength: float = 1.0
    background: str = STUFF

    def run(self, task: Task) -> Measured:
        """`mean_iou`, `foreground_mean_iou` and `point_accuracy`; a guesser says the commonest class."""
        if not takes_points(task.system):
            raise NotApplicable("needs a model that reads point clouds")
        answers = hasattr(task.system, "segment")
        encoder: Any = getattr(task.system, "encoder", None)
        if not answers and not isinstance(encoder, PointEncoder):
            raise NotApplicable("needs a model with a point encoder, or with the method segment")
        order = task.rng().permutation(len(task.rows))
        if not answers and len(order) <= self.learn:
            raise NotApplicable(f"needs more than learn={self.learn} rows, found {len(order)}")
        known = [] if answers else order[: self.learn].tolist()
        model = None if answers else self._fit(task, encoder, known)
        counts, scored = torch.zeros(0, 0, dtype=torch.int64), 0
        for position in order[len(known) :][: self.most].tolist():
            try:
                row = task.rows[position]
                if model is None:
                    cloud, found = segmented_cloud(task.system, row)
                else:
                    cloud, features = point_features(task.system, encoder, row)
                    found = model.predict(features)
                truth = classes_of(row, cloud)
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
                continue
            counts, scored = _added(counts, truth, found), scored + 1
        if not int(counts.sum()):
            raise NotApplicable("needs rows with points whose class counts")
        return self._measured(counts, task.rows.class_names, {"train_rows": len(known), "test_rows": scored})

    def _fit(self, task: Task, encoder: PointEncoder, known: Sequence[int]) -> Any:
        """Logistic regression on standardised features of the points of some rows."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rng, features, labels = task.rng(), [], []
        for position in known:
            try:
                row: Row = task.rows[position]
                cloud, found = point_features(task.system, encoder, row)
                truth = classes_of(row, cloud)
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
                continue
            for number in np.unique(truth[truth != IGNORED]):
                members = rng.permutation(np.flatnonzero(truth == number))[: self.points]
                features.append(found[members])
                labels.append(truth[members])
        if len({int(part[0]) for part in labels}) < 2:
            raise NotApplicable(f"needs points of at least two classes in the {self.learn} rows it learns from")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.strength, max_iter=1000))
        return model.fit(np.concatenate(features), np.concatenate(labels))

    def _measured(self, counts: Tensor, names: Sequence[str] | None, notes: dict[str, Any]) -> Measured:
        truth, guess = counts.sum(dim=1), torch.zeros_like(counts)
        guess[:, int(truth.argmax())] = truth
        stuff = set(self.background.split(","))
        things = [
            number for number in range(len(counts)) if (number > 0 if names is None else names[number] not in stuff)
        ]
        scores, chance = ({**_scores(found, things)} for found in (counts, guess))
        by_class = segmentation_scores(counts).by_class
        by_name = {str(number) if names is None else names[number]: value for number, value in enumerate(by_class)}
        notes["iou_by_class"] = {name: None if math.isnan(value) else value for name, value in by_name.items()}
        return Measured(scores, chance, notes)


def _added(counts: Tensor, truth: np.ndarray, found: np.ndarray) -> Tensor:
    """Counts (K, K) with those of one more cloud; larger where it holds a class that was not seen before."""
    largest = max(int(found.max()), int(truth[truth != IGNORED].max(initial=-1)))
    classes = max(len(counts), largest + 1)
    grown = torch.nn.functional.pad(counts, (0, classes - len(counts)) * 2)
    return grown + confusion(torch.from_numpy(found), torch.from_numpy(truth), classes)


def _scores(counts: Tensor, things: Sequence[int]) -> dict[str, float]:
    found = segmentation_scores(counts)
    foreground = [found.by_class[number] for number in things if not math.isnan(found.by_class[number])]
    scores = {"mean_iou": found.mean_iou, "point_accuracy": found.accuracy}
    return scores | ({"foreground_mean_iou": float(np.mean(foreground))} if foreground else {})
