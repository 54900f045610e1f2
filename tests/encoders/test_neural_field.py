"""Fields, recurrence, and what they are sampled with: against loops, finite differences and geometry."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoint.encoders.neural_field import (
    ActionRecurrence,
    TemporalField,
    exits,
    finer_ranges,
    sinusoidal,
    trilinear,
)
from counterpoint.encoders.points import PointEncoder


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sines_then_cosines_of_each_component() -> None:
    values = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    wanted = [f(2**k * v) for v in (0.3, -2.0) for f in (math.sin, math.cos) for k in range(3)]
    torch.testing.assert_close(sinusoidal(values, 3)[0], torch.tensor(wanted, dtype=torch.float64))


def test_trilinear_is_what_the_encoder_samples() -> None:
    encoder = PointEncoder("voxel4?range=-4,-3,-1,4,3,2&cell=1,0.5,1.5&levels=2")
    volume = _random(2, 3, *encoder.grid.shape)
    places = 6 * torch.rand(2, 200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 3.2
    low, cell = places.new_tensor(encoder.grid.low), places.new_tensor(encoder.grid.cell)
    torch.testing.assert_close(trilinear(volume, (places - low) / cell), encoder.at(volume, places))


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 3), (1, 1, 1)])
def test_trilinear_is_twice_differentiable(shape: tuple[int, int, int]) -> None:
    volume = _random(1, 2, *shape).requires_grad_()
    place = (torch.tensor([[[1.3, 1.8, 0.9], [0.2, 0.7, 1.6]]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(trilinear, (volume, place))
    assert torch.autograd.gradgradcheck(trilinear, (volume, place))


def test_rays_leave_a_box_where_they_should() -> None:
    low, high = torch.tensor([-2.0, -3.0, -1.0]), torch.tensor([4.0, 3.0, 1.0])
    origins = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.5], [9.0, 0.0, 0.0]])
    directions = torch.tensor(
        [[[1.0, 0, 0], [-1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, -1], [0.6, 0.8, 0]]] + [[[1.0, 0, 0]] * 3]
    )
    wanted = torch.tensor([[4.0, 2, 1], [2, 1.5, 2.5], [0, 0, 0]])
    torch.testing.assert_close(exits(origins, directions, low, high), wanted)


def test_finer_ranges_follow_the_weights() -> None:
    ranges = torch.arange(5.0)[None]
    alone = finer_ranges(ranges, torch.tensor([[0.0, 0.0, 1.0, 0.0]]), 4)
    assert ((alone > 2 - 1e-3) & (alone < 3 + 1e-3)).all()
    torch.testing.assert_close(alone[0], torch.tensor([2.125, 2.375, 2.625, 2.875]), atol=1e-3, rtol=0)
    even = finer_ranges(ranges, torch.ones(1, 4), 4)
    torch.testing.assert_close(even[0], torch.tensor([0.5, 1.5, 2.5, 3.5]))
    halves = finer_ranges(ranges, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), 200)[0]
    assert abs(int((halves < 1.001).sum()) - 100) <= 1 and ((halves < 1.001) | (halves > 2.999)).float().mean() > 0.99


def test_a_fresh_recurrence_changes_nothing_and_then_listens_to_the_action() -> None:
    recurrence, volume = ActionRecurrence(4, frequencies=2), torch.randn(2, 4, 3, 5, 6)
    action = torch.tensor([[1.0, 0.0, 0.1], [2.0, 0.5, -0.1]])
    assert torch.equal(recurrence(volume, action), volume)
    torch.nn.init.normal_(recurrence.convolutions[-1].weight)  # type: ignore[arg-type]
    first, second = recurrence(volume, action), recurrence(volume, action.flip(0))
    assert first.shape == volume.shape and not torch.allclose(first, second)
    torch.testing.assert_close(first[0], recurrence(volume[:1], action[:1])[0])


def test_a_fresh_field_is_nearly_a_sphere_seen_from_inside() -> None:
    torch.manual_seed(0)
    field = TemporalField(6, extent=20.0, radius=10.0)
    places = torch.tensor([[[0.0, 0, 0], [10, 0, 0], [0, -10, 0], [0, 15, 0]]])
    sdf, geometry = field(places, torch.zeros(1), torch.randn(1, 4, 6))
    assert (sdf[0] - torch.tensor([10.0, 0.0, 0.0, -5.0])).abs().max() < 1.0
    assert geometry.shape == (1, 4, 16)
    light = field.light(torch.nn.functional.normalize(places + 1, dim=2), geometry, torch.randn(1, 4, 6))
    assert light.shape == (1, 4) and ((light > 0) & (light < 1)).all()


def test_the_field_knows_time_and_every_point_by_itself() -> None:
    torch.manual_seed(0)
    field, places, features = TemporalField(3, extent=5.0, radius=2.0), torch.randn(2, 7, 3), torch.randn(2, 7, 3)
    now, _ = field(places, torch.tensor([0.0, 0.0]), features)
    later, _ = field(places, torch.tensor([0.0, 1.0]), features)
    assert torch.equal(now[0], later[0]) and not torch.equal(now[1], later[1])
    part, _ = field(places[:, 2:4], torch.tensor([0.0, 0.0]), features[:, 2:4])
    torch.testing.assert_close(part, now[:, 2:4])


def test_sharpness_is_learnt_and_bounded() -> None:
    field = TemporalField(3, extent=20.0, radius=10.0, spread=0.3)
    assert float(field.sharpness.detach()) == pytest.approx(math.exp(3.0) / 20)
    field.sharpness.backward()
    assert field.spread.grad is not None and float(field.spread.grad) > 0
    with torch.no_grad():
        field.spread.fill_(5.0)
    assert float(field.sharpness.detach()) == pytest.approx(1e6 / 20)
