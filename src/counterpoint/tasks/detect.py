"""Detection: boxes around things in a cloud of points, from clouds with boxes, over any point encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterpoint.data import BadRow
from counterpoint.encoders.base import Trainable
from counterpoint.encoders.bird_eye import BOX, CentreHead, box_code, peaks
from counterpoint.encoders.points import PointEncoder
from counterpoint.losses import centre_focal_error
from counterpoint.losses.centres import centre_map
from counterpoint.system import Batch, Features, System, Term, with_own_rate
from counterpoint.views.boxes import BoxedCloud
from counterpoint.views.points import PointCloud, collate_clouds

if TYPE_CHECKING:
    from counterpoint.data import Rows

__all__ = ["Detect"]

_LOOKED_AT = 100
"""Rows whose boxes are asked for the classes, where none are given."""


class Detect(System):
    """Upright boxes around things seen by a laser scanner: a map of centres over any point encoder (CenterPoint).

    The volume is looked at from above; a cell says for each class how likely a thing is centred in it, and what box it
    has (arXiv 2006.11275, the first stage). Boxes centred outside the encoder's range are left out.

    Args:
        encoder: see `PointEncoder`; `run:PATH` takes a pre-trained one.
        classes: names of the things to find; () takes those of the first 100 rows' boxes.
        trainable: what of the encoder learns, see `PointEncoder`.
        encoder_rate: learning rate of the encoder as a multiple of the head's.
        view: how clouds and boxes are varied in training.
        width: channels of the map.
        box_weight: of the boxes' L1 beside the focal loss of the centres.
        spread: standard deviation of the bump around a centre, as a share of the box's mean side; at least 0.7 cells.
        least: probability from which on a box is an answer.
        most: answers for a cloud at most.
        apart: metres; of two nearer boxes of a class the better is the answer.

    Attributes:
        class_names: of the labels, in order.
    """

    paper = "Center-based 3D Object Detection and Tracking (arXiv 2006.11275)"
    needs = ("points", "boxes")
    couples = False
    modality = "points"

    def __init__(
        self,
        encoder: str = "voxel32?range=51.2,-5,3&cell=0.4,0.4,0.8&features=intensity",
        classes: tuple[str, ...] = (),
        trainable: Trainable = "all",
        encoder_rate: float = 1.0,
        view: BoxedCloud = BoxedCloud(),  # noqa: B008 (frozen)
        width: int = 64,
        box_weight: float = 0.25,
        spread: float = 0.15,
        least: float = 0.05,
        most: int = 100,
        apart: float = 1.0,
    ) -> None:
        super().__init__()
        if not encoder_rate > 0 or not spread > 0 or width < 1 or most < 1 or not 0 < least < 1:
            raise ValueError("encoder_rate and spread must be above 0, width and most at least 1, least in (0, 1)")
        if isinstance(classes, str) or len(set(classes)) < len(classes):
            raise ValueError(f"classes must be names, all different; got {classes!r}")
        self.encoder = PointEncoder(encoder, trainable=trainable)
        self.view, self.encoder_rate, self.width = view, encoder_rate, width
        self.box_weight, self.spread = box_weight, spread
        self.least, self.most, self.apart = least, most, apart
        self.class_names: tuple[str, ...] = ()
        self._name(classes)

    def _name(self, classes: Sequence[str]) -> None:
        self.class_names = tuple(classes)
        head = CentreHead(self.encoder.dim, self.encoder.grid.shape[0], max(1, len(classes)), self.width)
        self.head = head.to(self.device)

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """The classes: those given, else those of the boxes.

        Raises:
            ValueError: no box has a class that can be learnt; names those there are.
        """
        found = set()
        for row in rows[: 8 if self.class_names else _LOOKED_AT].scan():
            if not isinstance(row, BadRow) and isinstance(row.get("boxes"), Sequence):
                found |= {box.get("label") for box in row["boxes"] if isinstance(box, Mapping)}
        names = {label for label in found if isinstance(label, str)}
        if self.class_names and names and not names & set(self.class_names):
            raise ValueError(
                f"{rows.name}: none of its boxes is a {' or a '.join(self.class_names)}; there are "
                f"{', '.join(sorted(names))}: give classes"
            )
        if not self.class_names and not names:
            raise ValueError(f"{rows.name}: its boxes have no names; give classes, in the order of their numbers")
        return {"classes": list(self.class_names) or sorted(names)}

    def use(self, facts: Mapping[str, Any]) -> None:
        """A map for each class."""
        if tuple(facts["classes"]) != self.class_names:
            self._name(facts["classes"])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The encoder learns at its own rate."""
        return with_own_rate(super().parameter_groups(), self.encoder.parameters(), self.encoder_rate)

    def views(self) -> BoxedCloud:
        """A cloud and its boxes, varied."""
        return replace(self.view, features=self.encoder.features, classes=self.class_names)

    def preprocess(self) -> PointCloud:
        """The cloud."""
        return PointCloud(features=self.encoder.features)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Clouds and boxes are padded."""
        return collate_clouds(samples)

    def encode(self, batch: Batch) -> Features:
        """Scores (B, K, Y, X) with the map they should give, and codes (B, M, 8) of boxes at the true centres."""
        scores, codes = self.head(self.encoder.volume(batch["points"]))
        boxes, grid = batch["boxes"], self.encoder.grid
        low, cell = codes.new_tensor(grid.low), codes.new_tensor(grid.cell)
        places = (boxes["xyz"].to(codes.dtype) - low)[..., :2] / cell[:2]  # (B, M, 2), in cells
        spread = (self.spread * boxes["size"][..., :2].mean(dim=2) / cell[0]).clamp(min=0.7)
        labels = torch.where(boxes["valid"], boxes["label"], -1)
        size = (scores.shape[2], scores.shape[3])
        heat, cells = centre_map(places, labels, spread=spread, classes=scores.shape[1], size=size)
        found = codes.flatten(2).gather(2, cells.clamp(min=0)[:, None].expand(-1, BOX, -1)).transpose(1, 2)
        wanted = box_code(grid, boxes["xyz"], boxes["size"].clamp(min=1e-3), boxes["yaw"])
        return {"scores": scores, "heat": heat, "found": found, "wanted": wanted, "counted": cells >= 0}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Focal loss of the centres, a mean over centres and clouds; mean L1 of the eight numbers of each box."""
        error = (features["found"] - features["wanted"]).abs().sum(dim=2) / BOX  # (B, M)
        counted = features["counted"]
        return {
            "centre": Term(*centre_focal_error(features["scores"], features["heat"])),
            "box": Term((error * counted).sum(), counted.sum(), weight=self.box_weight * BOX),
        }

    def embed(self, batch: Batch) -> Tensor:
        """(B, D): mean of the encoder's features over the points."""
        return self.encoder(batch["points"])

    @torch.no_grad()
    def detect(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Rows -> for each its boxes, best first, as `boxes` has them and with a "score"; one row at a time.

        Raises:
            counterpoint.data.BadRow: a row that cannot be decoded.
        """
        prepare, grid = self.preprocess(), self.encoder.grid
        for row in rows:
            points = self.collate([prepare(dict(row))])["points"]
            training = self.training
            try:
                self.eval()
                moved = {name: value.to(self.device) for name, value in points.items()}
                scores, codes = self.head(self.encoder.volume(moved))
            finally:
                self.train(training)
            apart = [self.apart] * len(scores[0])
            found = peaks(scores[0].sigmoid(), codes[0], grid, least=self.least, most=self.most, apart=apart)
            yield [self._answer(found, number) for number in range(len(found["score"]))]

    def _answer(self, found: Mapping[str, Tensor], number: int) -> dict[str, Any]:
        box = {name: found[name][number].tolist() for name in ("centre", "size", "yaw", "score")}
        return {"label": self.class_names[int(found["label"][number])], **box}
