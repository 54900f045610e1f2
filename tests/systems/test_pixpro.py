"""PixPro: which networks move and learn, its variants, and its pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from counterpoint.systems.pixpro import PixPro
from counterpoint.views.located import LocatedViews

VIEW = LocatedViews(size=32, scale=(0.3, 1.0), blur=0.0, second_blur=0.0)
PLACES = torch.tensor([[0.0, 0.0, 0.8, 0.9], [0.9, 0.1, 0.2, 0.7], [0.0, 0.0, 0.3, 0.3]]).double()
OTHERS = torch.tensor([[0.2, 0.1, 1.0, 1.0], [0.1, 0.0, 0.8, 1.0], [0.7, 0.7, 1.0, 1.0]]).double()
"""The second picture's first view is mirrored; the third's views do not overlap."""


def _system(**arguments: object) -> PixPro:
    settings = {"view": VIEW, "hidden": 16, "dim": 6, **arguments}
    return PixPro("test_resnet?size=32&stride=8", **settings).to(torch.float64)  # type: ignore[arg-type]


def _batch(rows: int = 3) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    images = torch.randn(2, rows, 3, 32, 32, dtype=torch.float64, generator=rng)
    return {"first": images[0], "second": images[1], "first_place": PLACES[:rows], "second_place": OTHERS[:rows]}


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
