"""TREND: which sweep is looked at, what the terms are, and that forecasts differ from the present."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.encoders.ray_field import Rays
from counterpoint.system import Term
from counterpoint.systems.trend import Trend
from counterpoint.views.sweeps import SweepViews

NAME = "voxel4?range=8,-2,2&cell=2&features=intensity&levels=2"
SETTINGS: dict[str, Any] = {"encoder": NAME, "samples": 6, "finer": 0, "field": (8, 1), "layers": 1}


def _sweep(step: int, seed: int) -> dict[str, Any]:
    """A block that moves 2 m a sweep, seen from a sensor that moves 1 m a sweep."""
    rng = np.random.default_rng([seed, step])
    block = rng.uniform(-0.5, 0.5, (60, 3)) + [4 + 2 * step, 1, 0]
    wall = rng.uniform(-0.5, 0.5, (60, 3)) * [6, 0.1, 2] + [0, -5, 0]
    pose = np.eye(4)
    pose[0, 3] = step
    points = np.concatenate([block, wall]) - [step, 0, 0]
    return {"points": np.column_stack([points, rng.uniform(0, 1, 120)]).astype(np.float32), "pose": pose}


def _row(seed: int = 0, following: int = 2) -> dict[str, Any]:
    return {"id": str(seed), **_sweep(0, seed), "future": [_sweep(step, seed) for step in range(1, following + 1)]}


def _system(horizon: int = 2, **changes: Any) -> Trend:
    torch.manual_seed(0)
    return Trend(view=SweepViews(horizon=horizon, rays=10, ground=0.0), **{**SETTINGS, **changes})


def _batch(system: Trend, rows: int = 3) -> dict[str, Any]:
    view = system.views()
    return system.collate([view(_row(seed), np.random.default_rng(seed)) for seed in range(rows)])


def _value(term: Tensor | Term) -> float:
    assert isinstance(term, Term)
    return float(torch.as_tensor(term.total).detach()) / float(term.count)


def test_terms_are_those_of_loops_over_rays() -> None:
    system = _system()
    features = system.encode(_batch(system))
    terms = system.loss(features)
    assert set(terms) == {f"{name}_{time}" for name in ("range", "intensity", "surface") for time in ("now", "later")}
    sharpness = float(system.field.sharpness.detach())
    for time in ("now", "later"):
        found = {
            name: features[f"{time}_{name}"].detach().flatten(0, 1).tolist() for name in ("sdf", "ranges", "light")
        }
        measured = features[f"{time}_measured"].flatten().tolist()
        bright = features[f"{time}_intensity"].flatten().tolist()
        errors: list[tuple[float, float]] = []
        for ray, target in enumerate(measured):
            if target <= 0:
                continue
            left, rendered, light = 1.0, 0.0, 0.0
            phi = [1 / (1 + math.exp(-sharpness * s)) for s in found["sdf"][ray]]
            for i in range(len(phi) - 1):
                alpha = max((phi[i] - phi[i + 1]) / phi[i], 0.0)
                rendered += left * alpha * found["ranges"][ray][i]
                light += left * alpha * found["light"][ray][i]
                left *= 1 - alpha
            errors.append((abs(rendered - target), abs(light - bright[ray])))
        assert len(errors) == 30
        ranges, intensities = zip(*errors, strict=True)
        assert _value(terms[f"range_{time}"]) == pytest.approx(sum(ranges) / len(ranges), rel=1e-4)
        assert _value(terms[f"intensity_{time}"]) == pytest.approx(sum(intensities) / len(intensities), rel=1e-4)
        assert _value(terms[f"surface_{time}"]) == pytest.approx(
            float(features[f"{time}_surface"].detach().abs().mean()), rel=1e-4
        )


def test_gradients_reach_the_encoder_through_every_step_of_the_recurrence() -> None:
    system = _system()
    torch.nn.init.normal_(system.recurrence.convolutions[-1].weight, std=0.1)  # type: ignore[arg-type]
    batch = _batch(system)
    batch["draw"] = torch.full_like(batch["draw"], 0.99)  # the second sweep
    system.clock.progress = 0.9
    terms = system.loss(system.encode(batch))
    later = terms["range_later"]
    assert isinstance(later, Term)
    later.total.backward()
    for name in ("encoder.enter.0.weight", "recurrence.action.0.weight", "field.layers.0.weight"):
        gradient = dict(system.named_parameters())[name].grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_only_sweeps_that_follow_are_looked_at() -> None:
    system = _system()
    view = system.views()
    samples = [view(_row(seed, following), np.random.default_rng(seed)) for seed, following in enumerate((1, 2))]
    batch = system.collate(samples)
    batch["draw"] = torch.full_like(batch["draw"], 0.99)
    system.clock.progress = 1.0
    features = system.encode(batch)
    assert (features["later_measured"] > 0).all()
    rays = Rays.of(batch, torch.tensor([1, 2]))
    assert torch.equal(features["later_measured"][..., 0], rays.ranges)


def test_without_a_horizon_it_reconstructs_the_present_only() -> None:
    system = _system(horizon=0)
    terms = system.loss(system.encode(_batch(system)))
    assert set(terms) == {"range_now", "intensity_now", "surface_now"}
    assert not any(name.startswith("recurrence") for name, _ in system.named_parameters())


def test_intensity_counts_only_where_it_is_known() -> None:
    system = _system(encoder=NAME.replace("&features=intensity", ""))
    row = _row()
    row["points"] = row["points"][:, :3]
    batch = system.collate([system.views()(row, np.random.default_rng(0))])
    terms = system.loss(system.encode(batch))
    counts = {name: float(terms[name].count) for name in ("intensity_now", "intensity_later", "range_now")}  # type: ignore[union-attr]
    assert counts == {"intensity_now": 0.0, "intensity_later": 10.0, "range_now": 10.0}


@pytest.mark.parametrize("rendering", ["samples", "gradient"])
def test_every_form_and_regulariser_trains_everything(rendering: Any) -> None:
    weights = {"free_space": 0.5, "near_surface": 0.5, "eikonal": 0.1}
    system = _system(rendering=rendering, finer=3, **weights)
    terms = system.loss(system.encode(_batch(system)))
    assert len(terms) == 12
    total = sum(
        term.total / term.count * term.weight for term in terms.values() if isinstance(term, Term) and term.count
    )
    assert isinstance(total, Tensor)
    total.backward()
    silent = {name for name, p in system.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not silent
    assert torch.isfinite(total)


def test_a_forecast_is_the_present_for_a_fresh_system_and_then_moves() -> None:
    system = _system().eval()
    points = system.collate([system.preprocess()(_row())])["points"]
    angles = torch.linspace(-0.5, 0.5, 7)
    directions = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)[None]
    rays = Rays(torch.zeros(1, 3), directions, torch.zeros(1, 7), torch.full((1, 7), 0.5))
    none, action = torch.zeros(1, 0, 3), torch.tensor([[[1.0, 0.0, 0.0]]])
    present = system.forecast(points, none, rays)
    assert present.shape == (1, 7) and (present > 0).all()
    torch.testing.assert_close(system.forecast(points, action, rays), present, atol=0.5, rtol=0)
    torch.nn.init.normal_(system.recurrence.convolutions[-1].weight, std=0.5)  # type: ignore[arg-type]
    assert not torch.allclose(system.forecast(points, action, rays), system.forecast(points, 2 * action, rays))
    still = _system(horizon=0).eval()
    assert torch.equal(still.forecast(points, action, rays), still.forecast(points, none, rays))


def test_it_learns_where_things_are_and_where_they_will_be() -> None:
    """The same scene again and again: what it renders comes nearer, now and later."""
    system = _system(encoder="voxel8?range=8,-2,2&cell=1&features=intensity&levels=2", samples=24, field=(32, 2))
    optimiser = torch.optim.Adam(system.parameters(), lr=5e-3)
    batch, first = _batch(system, rows=2), {}
    for _ in range(60):
        terms = system.loss(system.encode(batch))
        values = {name: term.total / term.count for name, term in terms.items() if isinstance(term, Term)}
        first = first or {name: float(value.detach()) for name, value in values.items()}
        optimiser.zero_grad()
        torch.stack(list(values.values())).sum().backward()
        optimiser.step()
    for name in ("range_now", "range_later", "surface_now", "surface_later"):
        assert float(values[name].detach()) < 0.5 * first[name], name
