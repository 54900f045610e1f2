"""TREND: from one sweep, render what the scanner measures now, and what it will measure after the car has moved on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from counterpoint.encoders.neural_field import ActionRecurrence, TemporalField
from counterpoint.encoders.points import PointEncoder
from counterpoint.encoders.ray_field import RayRenderer, Rays
from counterpoint.losses import eikonal_error, free_space_error, near_surface_error, rendered_error
from counterpoint.system import Batch, Features, System, Term
from counterpoint.views.points import PointCloud, collate_clouds
from counterpoint.views.sweeps import SweepViews, horizon_at, steps_ahead

__all__ = ["Trend"]


class Trend(System):
    """A point encoder from forecasting, by neural rendering, what a laser scanner measures next (arXiv 2412.03054).

    What is kept is `encoder`; field and recurrence only serve to train it.

    Args:
        encoder: see `PointEncoder`; its box is that of the field.
        view: the horizon (0 reconstructs the present only, without forecasting), rays, ground removal.
        samples: along a ray, N, one in each of N equal parts between `view.nearest` and the end of the box.
        finer: samples added where the first ones find a surface; 0 for none.
        rendering: "samples" takes opacity from consecutive samples, "gradient" from the distance's gradient (UniPAD).
        field: width and depth of the field's network.
        frequencies: of the encoding of actions.
        layers: convolutions of the recurrence.
        spread: v of the sharpness exp(10 v), learnt.
        intensity, surface: weights of the intensity and of the distance at measured points.
        free_space, near_surface, eikonal: weights of UniPAD's regularisers.
        truncation: half the width of the band around a return that the regularisers divide the ray by, metres.
        annealing: share of the training after which the gradient form is pure.
    """

    paper = (
        "TREND: Unsupervised 3D Representation Learning via Temporal Forecasting for LiDAR Perception "
        "(arXiv 2412.03054)"
    )
    needs = ("points", "pose", "future")
    couples = False
    modality = "points"

    def __init__(
        self,
        encoder: str = "voxel32?range=51.2,-5,3&cell=0.4,0.4,0.8&features=intensity",
        view: SweepViews = SweepViews(),  # noqa: B008 (frozen)
        samples: int = 72,
        finer: int = 24,
        rendering: Literal["samples", "gradient"] = "samples",
        field: tuple[int, int] = (64, 2),
        frequencies: int = 6,
        layers: int = 2,
        spread: float = 0.3,
        intensity: float = 1.0,
        surface: float = 1.0,
        free_space: float = 0.0,
        near_surface: float = 0.0,
        eikonal: float = 0.0,
        truncation: float = 1.0,
        annealing: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder = PointEncoder(encoder)
        grid = self.encoder.grid
        self.view = replace(view, low=grid.low, high=grid.high, features=self.encoder.features)
        extent = max(high - low for low, high in zip(grid.low, grid.high, strict=True)) / 2
        width, depth = field
        self.field = TemporalField(
            self.encoder.dim, extent=extent, radius=extent / 2, hidden=width, layers=depth, spread=spread
        )
        if view.horizon:
            self.recurrence = ActionRecurrence(self.encoder.dim, frequencies=frequencies, layers=layers)
        self.renderer = RayRenderer(rendering, samples, finer, nearest=view.nearest, gradients=eikonal > 0)
        self.annealing = annealing
        self.weights = {"range": 1.0, "intensity": intensity, "surface": surface}
        self.weights |= {"free_space": free_space, "near_surface": near_surface, "eikonal": eikonal}
        self.truncation = truncation

    def views(self) -> SweepViews:
        """The sweep, and the rays of it and of those that follow."""
        return self.view

    def preprocess(self) -> PointCloud:
        """The points of a sweep."""
        return PointCloud(features=self.encoder.features)

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Clouds are padded."""
        return collate_clouds(samples)

    def encode(self, batch: Batch) -> Features:
        """Of the present and of one later sweep: what is rendered along rays, and distances at the measured points."""
        volume = self.encoder.volume(batch["points"])  # (B, C, Z, Y, X)
        features = self._look("now", volume, batch, torch.zeros_like(batch["following"]))
        if self.view.horizon:
            horizon = batch["following"].clamp(max=horizon_at(self.clock.progress, self.view.horizon))
            steps = steps_ahead(batch["draw"], horizon)  # (B,)
            volumes = torch.stack(self.volumes(volume, batch["actions"][:, : int(steps.max())]))  # (n + 1, B, ...)
            features |= self._look("later", volumes[steps, torch.arange(len(steps))], batch, steps)
        return features

    def volumes(self, volume: Tensor, actions: Tensor) -> list[Tensor]:
        """The volume of the present, and those after each of the actions (B, n, 3)."""
        found = [volume]
        for action in actions.unbind(1):
            found.append(self.recurrence(found[-1], action))
        return found

    def _look(self, name: str, volume: Tensor, batch: Batch, steps: Tensor) -> Features:
        rays = Rays.of(batch, steps)
        eased = min(1.0, self.clock.progress / self.annealing) if self.annealing else 1.0
        found = self.renderer(self.encoder, self.field, volume, rays, steps, annealing=eased)
        ends = rays.origins[:, None] + rays.directions * rays.ranges[..., None]  # (B, R, 3)
        surface, _ = self.field(ends, steps, self.encoder.at(volume, ends))
        rows = torch.arange(len(steps), device=steps.device)
        found |= {"measured": rays.ranges[..., None], "surface": surface[..., None]}
        found |= {key: batch[key][rows, steps][..., None] for key in ("intensity", "lit")}
        return {f"{name}_{key}": value for key, value in found.items()}

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Of each of the two times: means over rays with a return, over measured points, over samples."""
        terms: dict[str, Tensor | Term] = {}
        for time in ("now", "later") if self.view.horizon else ("now",):
            start = f"{time}_"
            found = {k.removeprefix(start): v.flatten(0, 1) for k, v in features.items() if k.startswith(start)}
            for name, weight in self.weights.items():
                if weight:
                    terms[f"{name}_{time}"] = Term(*self._term(name, found), weight=weight)
        return terms

    def _term(self, name: str, found: Features) -> tuple[Tensor, Tensor]:
        """Sum and number of one term; rows of `found` are rays."""
        measured, weights = found["measured"], found["weights"]  # (R, 1), (R, N - 1 or N)
        if name in ("range", "intensity"):
            rendered, target, counted = found["ranges"], measured, measured
            if name == "intensity":
                rendered, target, counted = found["light"], found["intensity"], measured * found["lit"]
            normalised = self.renderer.form == "gradient"
            return rendered_error(weights, rendered[:, : weights.shape[1]], target, counted, normalised=normalised)
        if name == "surface":
            kept = measured > 0
            return (found["surface"].abs() * kept).sum(), kept.sum()
        if name == "eikonal":
            return eikonal_error(found["gradients"].flatten(0, 1))
        error = free_space_error if name == "free_space" else near_surface_error
        return error(found["sdf"], found["ranges"], measured, truncation=self.truncation)

    def embed(self, batch: Batch) -> Tensor:
        """(B, D): mean of the encoder's features over the points."""
        return self.encoder(batch["points"])

    def forecast(self, points: Mapping[str, Tensor], actions: Tensor, rays: Rays) -> Tensor:
        """Ranges (B, R) in metres that the scanner will measure after actions (B, n, 3); none is the present.

        A system that was trained without a horizon knows no change: it renders the present.

        Args:
            points: a batch of clouds.
            actions: dx, dy in metres and turn in radians of each sweep in the frame of the one before.
            rays: in the frame of the present sweep.
        """
        volume = self.encoder.volume(points)
        ahead = actions.shape[1] if self.view.horizon else 0
        if ahead:
            volume = self.volumes(volume, actions)[-1]
        steps = torch.full((len(volume),), ahead, device=volume.device)
        return self.renderer.rendered(self.renderer(self.encoder, self.field, volume, rays, steps))
