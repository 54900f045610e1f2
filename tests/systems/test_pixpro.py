"""PixPro against loops written from the paper, and the bookkeeping of where a crop lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from counterpoint.systems.pixpro import (
    PixPro,
    Propagation,
    cell_centres,
    momentum_at,
    pixel_consistency,
    pixel_contrast,
    positive_cells,
)
from counterpoint.views.located import LocatedViews, place_of, solarise

VIEW = LocatedViews(size=32, scale=(0.3, 1.0), blur=0.0, second_blur=0.0)
PLACES = torch.tensor([[0.0, 0.0, 0.8, 0.9], [0.9, 0.1, 0.2, 0.7], [0.0, 0.0, 0.3, 0.3]]).double()
OTHERS = torch.tensor([[0.2, 0.1, 1.0, 1.0], [0.1, 0.0, 0.8, 1.0], [0.7, 0.7, 1.0, 1.0]]).double()
"""The second picture's first view is mirrored; the third's views do not overlap."""


def _system(**arguments: object) -> PixPro:
    settings = {"view": VIEW, "hidden": 16, "dim": 6, **arguments}
    return PixPro("test_resnet?size=32&stride=8", **settings).to(torch.float64)  # type: ignore[arg-type]


def _cells(rows: int = 3, height: int = 3, width: int = 4, seed: int = 0) -> Tensor:
    drawn = torch.randn(rows, 5, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def _batch(rows: int = 3) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    images = torch.randn(2, rows, 3, 32, 32, dtype=torch.float64, generator=rng)
    return {"first": images[0], "second": images[1], "first_place": PLACES[:rows], "second_place": OTHERS[:rows]}


def _slow_mask(first: Tensor, second: Tensor, height: int, width: int, ratio: float) -> list[list[list[bool]]]:
    def centres(place: list[float]) -> tuple[list[tuple[float, float]], float]:
        x0, y0, x1, y1 = place
        across, down = (x1 - x0) / width, (y1 - y0) / height
        found = [(x0 + (b + 0.5) * across, y0 + (a + 0.5) * down) for a in range(height) for b in range(width)]
        return found, math.sqrt(across**2 + down**2)

    masks = []
    for place, other in zip(first.tolist(), second.tolist(), strict=True):
        (ours, g1), (theirs, g2) = centres(place), centres(other)
        masks.append([[math.dist(p, q) / max(g1, g2) < ratio for q in theirs] for p in ours])
    return masks


def test_positive_cells_against_loops() -> None:
    for ratio in (0.3, 0.7, 1.5):
        found = positive_cells(PLACES, OTHERS, size=(3, 4), ratio=ratio)
        assert found.tolist() == _slow_mask(PLACES, OTHERS, 3, 4, ratio)
        assert torch.equal(found.mT, positive_cells(OTHERS, PLACES, size=(3, 4), ratio=ratio))
    assert found[0].any() and not found[2].any()


def test_losses_against_loops() -> None:
    query, key = _cells(), _cells(seed=1)
    masks = _slow_mask(PLACES, OTHERS, 3, 4, 0.7)
    consistency, contrast, counted = [], [], 0
    for q, k, mask in zip(query.flatten(2), key.flatten(2), masks, strict=True):
        cosines = [[float(q[:, i] @ k[:, j]) for j in range(12)] for i in range(12)]
        chosen = [cosines[i][j] for i in range(12) for j in range(12) if mask[i][j]]
        consistency.append(-2 * sum(chosen) / (len(chosen) + 1e-6))
        for i in range(12):
            exponents = [math.exp(value / 0.3) for value in cosines[i]]
            positive = sum(e for e, m in zip(exponents, mask[i], strict=True) if m)
            if positive:
                contrast.append(-math.log(positive / sum(exponents)))
                counted += 1
    positives = positive_cells(PLACES, OTHERS, size=(3, 4), ratio=0.7)
    assert float(pixel_consistency(query, key, positives)) == pytest.approx(sum(consistency) / 3, abs=1e-12)
    total, count = pixel_contrast(3 * query, key, positives, temperature=0.3)
    assert int(count) == counted
    assert float(total) == pytest.approx(sum(contrast), abs=1e-10)


def test_pictures_that_do_not_overlap_teach_nothing_and_hurt_nothing() -> None:
    query = _cells().requires_grad_()
    nothing = torch.zeros(3, 12, 12, dtype=torch.bool)
    total, count = pixel_contrast(query, _cells(seed=1), nothing, temperature=0.3)
    loss = total + pixel_consistency(query, _cells(seed=1), nothing)
    loss.backward()
    assert float(loss) == 0.0 and int(count) == 0
    assert query.grad is not None and float(query.grad.abs().max()) == 0.0


@pytest.mark.parametrize(("gamma", "clamp", "layers"), [(2.0, 0.0, 1), (1.0, 0.1, 0), (0.5, 0.0, 2)])
def test_propagation_against_loops(gamma: float, clamp: float, layers: int) -> None:
    module = Propagation(5, gamma=gamma, clamp=clamp, layers=layers).double()
    features = 2 * _cells()
    values = torch.nn.functional.normalize(module.transform(features), dim=1).flatten(2)
    units = torch.nn.functional.normalize(features, dim=1).flatten(2)
    expected = torch.zeros_like(values)
    for n in range(3):
        for i in range(12):
            for j in range(12):
                similarity = max(float(units[n, :, i] @ units[n, :, j]), clamp) + (1e-6 if gamma < 1 else 0.0)
                expected[n, :, i] += similarity**gamma * values[n, :, j]
    torch.testing.assert_close(module(features).flatten(2), expected)


def test_places_say_what_a_cell_shows() -> None:
    """Red grows from left to right and green downwards, so every cell's colour is its place, mirrored or not."""
    height, width = 90, 120
    grid = np.zeros((height, width, 3), dtype=np.uint8)
    grid[..., 0] = np.round(np.linspace(0, 255, width))[None]
    grid[..., 1] = np.round(np.linspace(0, 255, height))[:, None]
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "jitter_probability": 0.0, "grey": 0.0, "blur": 0.0}
    view = LocatedViews(size=32, scale=(0.3, 1.0), second_blur=0.0, second_solarise=0.0, **plain)  # type: ignore[arg-type]
    mirrored = set()
    for seed in range(12):
        sample = view({"id": "grid", "image": Image.fromarray(grid)}, np.random.default_rng(seed))
        for name in ("first", "second"):
            place = sample[f"{name}_place"]
            mirrored.add(bool(place[2] < place[0]))
            colours = torch.nn.functional.avg_pool2d(sample[name], 8)[:2].flatten(1).T  # (16, 2)
            centres, _ = cell_centres(place[None], 4, 4)
            torch.testing.assert_close(colours, centres[0], atol=0.012, rtol=0)  # half a pixel and rounding
    assert mirrored == {True, False}


def test_place_of_a_crop() -> None:
    assert place_of((0, 0, 11, 6), width=11, height=6) == (0.0, 0.0, 1.0, 1.0)
    assert place_of((2, 1, 6, 3), width=11, height=6, flipped=True) == (0.5, 0.2, 0.2, 0.4)
    assert place_of((2, 1, 6, 3), width=11, height=6, upside_down=True) == (0.2, 0.4, 0.5, 0.2)
    assert place_of((0, 0, 1, 1), width=1, height=1) == (0.0, 0.0, 0.0, 0.0)


def test_solarise_inverts_the_bright_half() -> None:
    values = torch.tensor([0.0, 127 / 255, 128 / 255, 1.0])
    torch.testing.assert_close(solarise(values), torch.tensor([0.0, 127 / 255, 127 / 255, 0.0]))


def test_keys_are_moved_before_the_step_and_get_no_gradient() -> None:
    system = _system(instance=0.5).train()
    with torch.no_grad():
        for parameter in system.encoder.parameters():
            parameter.add_(1.0)
    online, slow = next(system.encoder.parameters()), next(system.slow_encoder.module.parameters())
    system.clock.progress = 0.5
    before = slow.clone()
    system.before_step()
    torch.testing.assert_close(slow, 0.995 * before + 0.005 * online)
    terms = system.loss(system.encode(_batch()))
    assert set(terms) == {"pixel", "instance"}
    (terms["pixel"] + terms["instance"].total).backward()  # type: ignore[union-attr, operator]
    for name, parameter in system.named_parameters():
        assert (parameter.grad is None) == name.startswith("slow_"), name


def test_momentum_rises_to_one() -> None:
    assert [momentum_at(p, 0.9) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])


@pytest.mark.parametrize(
    ("pixel", "instance", "names"),
    [("consistency", 0.0, {"pixel"}), ("contrast", 0.0, {"first", "second"}), ("none", 1.0, {"instance"})],
)
def test_variants(pixel: str, instance: float, names: set[str]) -> None:
    system = _system(pixel=pixel, instance=instance).train()
    features = system.encode(_batch())
    assert set(system.loss(features)) == names
    assert not any(name.startswith("propagate") for name, _ in system.named_parameters())
    first, second = system.pair(features)  # type: ignore[misc]
    assert first.shape == second.shape and first.shape[1] == 6


def test_pairs_are_positive_cells() -> None:
    system = _system().eval()
    features = system.encode(_batch())
    first, second = system.pair(features)  # type: ignore[misc]
    assert len(first) == 2, "the third picture has none"
    mask = system.positives(features)[0]
    cosines = features["first_pixel"][0].flatten(1).T @ features["second_pixel_key"][0].flatten(1)
    assert any(torch.isclose(value, first[0] @ second[0]) for value in cosines[mask])


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="instance above 0"):
        _system(pixel="none")
    with pytest.raises(ValueError, match="transform_layers"):
        _system(transform_layers=3)
    with pytest.raises(ValueError, match="probability"):
        LocatedViews(second_solarise=2.0)
