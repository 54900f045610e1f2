"""Rays through a field of signed distances over a volume: samples, weights, and what is rendered along them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from counterpoint.encoders.neural_field import TemporalField, exits, finer_ranges, trilinear
from counterpoint.encoders.points import Grid, PointEncoder
from counterpoint.losses.rendering import (
    annealed_slopes,
    opacity_from_samples,
    opacity_from_slopes,
    ray_weights,
    rendered,
    sampling_slopes,
)

__all__ = ["RayRenderer", "Rays"]

_ROUND = 64.0
"""Sharpness, one over half the box, that places the finer samples; UniPAD's first round."""


class Rays(NamedTuple):
    """Rays of one moment, in the frame of a batch's volumes.

    Attributes:
        origins: (B, 3), metres.
        directions: (B, R, 3), unit vectors.
        ranges: (B, R), measured, metres; 0 where there is no return.
        offsets: (B, R), in [0, 1): where in its part of the ray each sample lies.
    """

    origins: Tensor
    directions: Tensor
    ranges: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], steps: Tensor) -> Rays:
        """Those of one sweep a row: tensors of `batch` are (B, F + 1, ...), `steps` (B,) says which sweep."""
        rows = torch.arange(len(steps), device=steps.device)
        return cls(*(batch[name][rows, steps] for name in cls._fields))


@dataclass(frozen=True)
class RayRenderer:
    """How rays are sampled and what samples weigh.

    Attributes:
        form: "samples" takes opacity from consecutive distances; the last sample then only ends the one before. With
            "gradient" it comes from the slope of the distance along the ray.
        samples: one in each of so many equal parts between `nearest` and the end of the box.
        finer: samples added where those find a surface.
        nearest: metres.
        gradients: whether spatial gradients of the distance are found too; the gradient form always does.
    """

    form: Literal["samples", "gradient"]
    samples: int
    finer: int
    nearest: float
    gradients: bool = False

    def __post_init__(self) -> None:
        if self.samples < 2 or self.finer < 0 or self.nearest < 0:
            raise ValueError(
                f"samples must be at least 2, finer and nearest at least 0; got {self.samples}, {self.finer} and "
                f"{self.nearest}"
            )

    def __call__(
        self,
        encoder: PointEncoder,
        field: TemporalField,
        volume: Tensor,
        rays: Rays,
        times: Tensor,
        *,
        annealing: float = 1.0,
    ) -> dict[str, Tensor]:
        """Distances and weights along rays.

        Args:
            encoder: the volume's; only its box is used.
            field: distances from places, times and features.
            volume: (B, C, Z, Y, X).
            rays: of one moment.
            times: (B,), in sweeps.
            annealing: of the gradient form, see `annealed_slopes`.

        Returns:
            `ranges`, `sdf`, `light` (B, R, N) of the samples, `weights` (B, R, N - 1) or, of the gradient form, (B, R,
            N), and where they are found `gradients` (B, R, N, 3).
        """
        box = encoder.grid
        ranges, steps = self._ranges(box, rays)  # (B, R, N) both
        if self.finer:
            ranges, steps = self._refined(encoder, field, volume, rays, times, ranges)
        count = ranges.shape[2]
        places = (rays.origins[:, None, None] + rays.directions[:, :, None] * ranges[..., None]).flatten(1, 2)
        exact = self.gradients or self.form == "gradient"
        features = self._features(encoder, volume, places, exact)
        if exact:
            sdf, geometry, gradients = self._with_gradients(encoder, field, volume, places, times)
        else:
            sdf, geometry = field(places, times, features)
        directions = rays.directions[:, :, None].expand(-1, -1, count, -1)  # (B, R, N, 3)
        light = field.light(directions.flatten(1, 2), geometry, features)
        found = {"ranges": ranges, "sdf": sdf.unflatten(1, (-1, count)), "light": light.unflatten(1, (-1, count))}
        if exact:
            found["gradients"] = gradients.unflatten(1, (-1, count))
        return {**found, "weights": self._weights(field, found, directions, steps, annealing)}

    def _weights(
        self, field: TemporalField, found: Mapping[str, Tensor], directions: Tensor, steps: Tensor, annealing: float
    ) -> Tensor:
        rows, sdf = len(steps), found["sdf"].flatten(0, 1)  # (B * R, N)
        if self.form == "samples":
            weights = ray_weights(opacity_from_samples(sdf, sharpness=field.sharpness))
        else:
            slopes = annealed_slopes(directions, found["gradients"], annealing=annealing).flatten(0, 1)
            alpha = opacity_from_slopes(sdf, slopes, steps.flatten(0, 1), sharpness=field.sharpness)
            weights = ray_weights(alpha, slack=1e-7)
        return weights.unflatten(0, (rows, -1))

    def rendered(self, found: Mapping[str, Tensor]) -> Tensor:
        """(B, R) ranges that rays end at, in the mean."""
        weights = found["weights"]
        ranges = found["ranges"][..., : weights.shape[2]].flatten(0, 1)
        return rendered(weights.flatten(0, 1), ranges, normalised=self.form == "gradient").unflatten(
            0, weights.shape[:2]
        )[..., 0]

    def _ranges(self, box: Grid, rays: Rays) -> tuple[Tensor, Tensor]:
        """Ranges of samples (B, R, N) and lengths of their parts of the ray."""
        low, high = (rays.origins.new_tensor(corner) for corner in (box.low, box.high))
        end = exits(rays.origins, rays.directions, low, high).clamp(min=2 * self.nearest + 1e-3)  # (B, R)
        step = ((end - self.nearest) / self.samples)[..., None]
        number = torch.arange(self.samples, dtype=end.dtype, device=end.device)
        return self.nearest + (number + rays.offsets[..., None]) * step, step.expand(-1, -1, self.samples)

    @torch.no_grad()
    def _refined(
        self, encoder: PointEncoder, field: TemporalField, volume: Tensor, rays: Rays, times: Tensor, ranges: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ranges with the finer ones among them, and the distances to the next; constants."""
        count = ranges.shape[2]
        places = (rays.origins[:, None, None] + rays.directions[:, :, None] * ranges[..., None]).flatten(1, 2)
        sdf, _ = field(places, times, encoder.at(volume, places))
        flat, coarse = sdf.unflatten(1, (-1, count)).flatten(0, 1), ranges.flatten(0, 1)  # (B * R, N)
        gaps = coarse.diff(dim=1)
        middle, slopes = sampling_slopes(flat, gaps)
        weights = ray_weights(opacity_from_slopes(middle, slopes, gaps, sharpness=_ROUND / field.extent), slack=1e-7)
        finer = finer_ranges(coarse, weights, self.finer)
        merged = torch.cat([coarse, finer], dim=1).sort(dim=1).values  # (B * R, N + finer)
        steps = torch.cat([merged.diff(dim=1), gaps[:, -1:]], dim=1)
        rows = len(ranges)
        return merged.unflatten(0, (rows, -1)), steps.unflatten(0, (rows, -1))

    def _features(self, encoder: PointEncoder, volume: Tensor, places: Tensor, exact: bool) -> Tensor:
        if not exact:
            return encoder.at(volume, places)
        low, cell = places.new_tensor(encoder.grid.low), places.new_tensor(encoder.grid.cell)
        return trilinear(volume, (places - low) / cell)

    def _with_gradients(
        self, encoder: PointEncoder, field: TemporalField, volume: Tensor, places: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Distances, geometry, and the gradients of distances by places, themselves differentiable."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            places = places.detach().requires_grad_()
            sdf, geometry = field(places, times, self._features(encoder, volume, places, True))
            (gradients,) = torch.autograd.grad(sdf.sum(), places, create_graph=differentiable)
        return sdf, geometry, gradients
