"""Classification: a linear map from an encoder's vector to the classes of the labelled rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoint.data import BadRow, Row, Rows
from counterpoint.encoders.base import Trainable
from counterpoint.system import Batch, Features, Term, View
from counterpoint.tasks._trunk import Distortion, TaskSystem

__all__ = ["Classify", "LabelledView"]


@dataclass(frozen=True)
class LabelledView:
    """A view of a row, and its class."""

    view: View

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> what the view gives, and "label" ().

        Raises:
            BadRow: the row has no class.
        """
        if row.get("label") is None:
            raise BadRow("no class in the column 'label'")
        return {**self.view(row, rng), "label": torch.tensor(int(row["label"]))}


class Classify(TaskSystem):
    """Classes of pictures, clips, recordings or scans from labelled examples, over any encoder (cross-entropy).

    Args:
        encoder: a name that the encoder of the kind knows; `run:PATH` takes a pre-trained one.
        kind: "image" ...; left out it is that of the run, or "image".
        trainable: what of the encoder learns: "all" fine-tunes it, "none" trains the linear map alone.
        distortion: of the training rows: "strong" (pictures are cut and mirrored), "weak" or "none".
        label_smoothing: share of the target spread over all classes, in [0, 1).
        encoder_rate: learning rate of the encoder as a multiple of the head's.

    Attributes:
        class_names: in the order of the outputs.
    """

    paper = ""
    needs = ("label",)

    def __init__(
        self,
        encoder: str = "resnet18",
        kind: str | None = None,
        trainable: Trainable = "all",
        distortion: Distortion = "strong",
        label_smoothing: float = 0.0,
        encoder_rate: float = 0.1,
    ) -> None:
        super().__init__(encoder, kind, trainable, distortion, encoder_rate)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.class_names: list[str] | None = None

    def views(self) -> LabelledView:
        """The encoder's training view with the class."""
        return LabelledView(self.trunk.views(self.distortion))

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """The names of the classes.

        Raises:
            ValueError: fewer than two classes.
        """
        labels = {int(label) for label in rows.column("label") if label is not None}
        if len(labels) < 2:
            raise ValueError(f"classification needs at least two classes in the column 'label', found {len(labels)}")
        names = rows.class_names or [str(number) for number in range(max(labels) + 1)]
        return {"class_names": list(names)}

    def use(self, facts: Mapping[str, Any]) -> None:
        """One output for each class."""
        self.class_names = list(facts["class_names"])
        self.size_head(len(self.class_names))

    def encode(self, batch: Batch) -> Features:
        """`features` (B, dim) and `label` (B,)."""
        return {"features": self.trunk(batch), "label": batch["label"]}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Cross-entropy; a guesser's is the log of the number of classes."""
        scores = self.head(features["features"])
        total = torch.nn.functional.cross_entropy(
            scores, features["label"], label_smoothing=self.label_smoothing, reduction="sum"
        )
        return {"cross_entropy": Term(total, len(scores), guess=float(np.log(scores.shape[1])))}

    def classify(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """N rows -> (N, K) probabilities on the CPU; rows sum to one.

        Raises:
            counterpoint.data.BadRow: a row that cannot be decoded.
        """
        return self.answer(rows).softmax(dim=1)
