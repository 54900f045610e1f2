"""SupReMix: what its views draw, and the settings that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from counterpoint.systems.supremix import SupReMix
from counterpoint.views.image import TwoViews


def _system(**arguments: Any) -> SupReMix:
    pictures = TwoViews(size=32, scale=(0.8, 1.0), flip=0.0)
    return SupReMix("test_resnet?size=32", pictures=pictures, hidden=8, dim=4, **arguments)


def test_coefficients_are_a_function_of_the_batch_drawn_by_its_views() -> None:
    system, draw = _system(), torch.tensor([5, 7, 9])
    found = system.coefficients(draw)
    assert found is not None and found.shape == (6, 6)
    assert torch.equal(found, system.coefficients(draw))
    assert not torch.equal(found, system.coefficients(torch.tensor([5, 7, 10])))
    many = system.coefficients(torch.arange(200))
    assert many is not None and abs(float(many.mean()) - 0.2) < 0.005, "mostly the other row: Beta(2, 8)"
    assert _system(beta=None).coefficients(draw) is None


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be above 0"):
        _system(window=0.0)
    with pytest.raises(ValueError, match="beta must be two numbers above 0"):
        _system(beta=(0.0, 1.0))
