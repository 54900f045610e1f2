"""Rendering through a field whose distances are known: a wall, a sphere."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from counterpoint.encoders.neural_field import TemporalField
from counterpoint.encoders.points import PointEncoder
from counterpoint.encoders.ray_field import RayRenderer, Rays

ENCODER = PointEncoder("voxel4?range=10,-4,4&cell=2&levels=2")
Form = Literal["samples", "gradient"]


class _Wall(nn.Module):
    """The exact distance to a wall at x = 6, in front of it positive."""

    extent, sharpness = 10.0, torch.tensor(200.0)

    def forward(self, places: Tensor, times: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return 6.0 - places[..., 0], features

    def light(self, directions: Tensor, geometry: Tensor, features: Tensor) -> Tensor:
        return torch.full(directions.shape[:2], 0.25)


def _rays(origin: tuple[float, float, float], count: int = 5) -> Rays:
    angles = torch.linspace(-0.5, 0.5, count)
    directions = torch.stack([angles.cos(), angles.sin(), torch.zeros(count)], dim=1)[None]
    return Rays(torch.tensor([origin]), directions, torch.zeros(1, count), torch.full((1, count), 0.5))


@pytest.mark.parametrize("form", ["samples", "gradient"])
@pytest.mark.parametrize("finer", [0, 40])
@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (3.0, 0.5, 1.0)])
def test_a_wall_is_rendered_where_it_stands(form: Form, finer: int, origin: tuple[float, float, float]) -> None:
    renderer, rays = RayRenderer(form, samples=60, finer=finer, nearest=0.5), _rays(origin)
    volume = torch.zeros(1, 4, *ENCODER.grid.shape)
    found = renderer(ENCODER, _Wall(), volume, rays, torch.zeros(1))  # type: ignore[arg-type]
    wanted = (6.0 - origin[0]) / rays.directions[..., 0]
    step = 12 / 60
    assert (renderer.rendered(found) - wanted).abs().max() < (2 * step if finer == 0 else 0.5 * step)
    count = 60 + finer
    assert found["ranges"].shape == found["sdf"].shape == found["light"].shape == (1, 5, count)
    assert found["weights"].shape == (1, 5, count - (form == "samples"))
    assert (found["ranges"].diff(dim=2) >= 0).all() and found["ranges"].min() >= 0.5
    ends = rays.origins[:, None, None] + rays.directions[:, :, None] * found["ranges"][..., None]
    assert ends.abs().max() <= 10.0 + 1e-4, "samples stay in the box"
    torch.testing.assert_close(found["weights"].sum(dim=2), torch.ones(1, 5), atol=1e-3, rtol=0)


def test_gradients_are_those_of_the_distance_and_can_be_learnt_from() -> None:
    torch.manual_seed(0)
    field = TemporalField(4, extent=10.0, radius=5.0, hidden=8).double()
    volume = torch.randn(1, 4, *ENCODER.grid.shape, dtype=torch.float64, requires_grad=True)
    rays = Rays(*(value.double() for value in _rays((0.0, 0.0, 0.0))))
    renderer = RayRenderer("gradient", samples=6, finer=0, nearest=0.5)
    found = renderer(ENCODER, field, volume, rays, torch.zeros(1, dtype=torch.float64), annealing=0.3)
    assert found["gradients"].shape == (1, 5, 6, 3)
    places = (
        (rays.origins[:, None, None] + rays.directions[:, :, None] * found["ranges"][..., None]).detach().flatten(1, 2)
    )
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = 1e-5
        sides = [
            field(at, torch.zeros(1, dtype=torch.float64), ENCODER.at(volume, at))[0]
            for at in (places + shift, places - shift)
        ]
        slope = (sides[0] - sides[1]) / 2e-5
        torch.testing.assert_close(found["gradients"].flatten(1, 2)[..., axis], slope, atol=1e-5, rtol=1e-4)
    (found["gradients"].square().sum() + found["weights"].sum()).backward()
    assert volume.grad is not None and volume.grad.abs().sum() > 0
    assert field.distance.weight.grad is not None and field.distance.weight.grad.abs().sum() > 0


def test_the_same_distances_with_and_without_gradients() -> None:
    torch.manual_seed(0)
    field, volume = TemporalField(4, extent=10.0, radius=5.0, hidden=8), torch.randn(1, 4, *ENCODER.grid.shape)
    plain, exact = (
        RayRenderer("samples", samples=8, finer=4, nearest=0.5, gradients=gradients)(
            ENCODER, field, volume, _rays((1.0, 0.0, 0.0)), torch.ones(1)
        )
        for gradients in (False, True)
    )
    for name, value in plain.items():
        torch.testing.assert_close(exact[name], value, atol=1e-4, rtol=1e-4)


def test_rays_of_one_sweep_a_row() -> None:
    batch = {"origins": torch.arange(18.0).reshape(2, 3, 3), "directions": torch.randn(2, 3, 4, 3)}
    batch |= {"ranges": torch.randn(2, 3, 4), "offsets": torch.rand(2, 3, 4)}
    rays = Rays.of(batch, torch.tensor([2, 0]))
    assert torch.equal(rays.origins, torch.stack([batch["origins"][0, 2], batch["origins"][1, 0]]))
    assert torch.equal(rays.ranges[0], batch["ranges"][0, 2])


@pytest.mark.parametrize("settings", [(1, 0, 1.0), (8, -1, 1.0), (8, 0, -1.0)])
def test_settings_out_of_range_are_refused(settings: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="samples must be at least 2"):
        RayRenderer("samples", *settings)
