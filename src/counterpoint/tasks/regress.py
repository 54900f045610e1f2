"""Regression: a linear map from an encoder's vector to a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss, smooth_l1_loss

from counterpoint.data import Row, Rows
from counterpoint.encoders.base import Trainable
from counterpoint.system import Batch, Features, Term, View
from counterpoint.tasks._trunk import Distortion, TaskSystem
from counterpoint.views.targets import finite_number, target_of

__all__ = ["Regress", "TargetView"]

_ERRORS = {"l1": l1_loss, "l2": mse_loss, "huber": smooth_l1_loss}


@dataclass(frozen=True)
class TargetView:
    """A view of a row, and its target."""

    view: View

    def __call__(self, row: Row, rng: np.random.Generator) -> dict[str, Any]:
        """One row -> what the view gives, and "target" ().

        Raises:
            BadRow: no target, or none that is a finite number.
        """
        target = torch.tensor(target_of(row), dtype=torch.float32)
        return {**self.view(row, rng), "target": target}


class Regress(TaskSystem):
    """Numbers from pictures, clips, recordings or scans, over any encoder (error of the standardised target).

    Targets are standardised with the mean and deviation of the training rows; answers are in the target's own unit.

    Args:
        encoder: a name that the encoder of the kind knows; `run:PATH` takes a pre-trained one.
        kind: "image" ...; left out it is that of the run, or "image".
        trainable: what of the encoder learns: "all" fine-tunes it, "none" trains the linear map alone.
        distortion: of the training rows: "strong" (pictures are cut and mirrored, which changes targets such as
            angles), "weak" (small cuts) or "none".
        error: "l1", "l2" or "huber".
        encoder_rate: learning rate of the encoder as a multiple of the head's.
    """

    paper = ""
    needs = ("target",)

    def __init__(
        self,
        encoder: str = "resnet18",
        kind: str | None = None,
        trainable: Trainable = "all",
        distortion: Distortion = "weak",
        error: Literal["l1", "l2", "huber"] = "l1",
        encoder_rate: float = 1.0,
    ) -> None:
        super().__init__(encoder, kind, trainable, distortion, encoder_rate)
        if error not in _ERRORS:
            raise ValueError(f"error must be one of {', '.join(_ERRORS)}, got {error!r}")
        self.error = error
        self.size_head(1)
        self.mean, self.deviation = 0.0, 1.0

    def views(self) -> TargetView:
        """The encoder's training view with the target."""
        return TargetView(self.trunk.views(self.distortion))

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """Mean and deviation of the targets.

        Raises:
            ValueError: fewer than two different targets.
        """
        numbers = np.array([number for number in map(finite_number, rows.column("target")) if number is not None])
        if len(np.unique(numbers)) < 2:
            raise ValueError(f"regression needs two different numbers in the column 'target', found {numbers[:1]}")
        return {"mean": float(numbers.mean()), "deviation": float(numbers.std())}

    def use(self, facts: Mapping[str, Any]) -> None:
        """Take the scale of the targets."""
        self.mean, self.deviation = float(facts["mean"]), float(facts["deviation"])

    def encode(self, batch: Batch) -> Features:
        """`features` (B, dim) and the standardised `target` (B,)."""
        return {"features": self.trunk(batch), "target": (batch["target"] - self.mean) / self.deviation}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Error of the standardised target."""
        answers = self.head(features["features"])[:, 0]
        total = _ERRORS[self.error](answers, features["target"], reduction="sum")
        return {self.error: Term(total, len(answers))}

    def regress(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """N rows -> (N,) numbers in the target's own unit, on the CPU.

        Raises:
            counterpoint.data.BadRow: a row that cannot be decoded.
        """
        return self.answer(rows)[:, 0] * self.deviation + self.mean
