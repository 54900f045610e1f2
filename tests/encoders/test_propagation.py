"""Propagation against loops written from the paper."""

from __future__ import annotations

import pytest
import torch

from counterpoint.encoders.propagation import Propagation


@pytest.mark.parametrize(("gamma", "clamp", "layers"), [(2.0, 0.0, 1), (1.0, 0.1, 0), (0.5, 0.0, 2)])
def test_propagation_against_loops(gamma: float, clamp: float, layers: int) -> None:
    module = Propagation(5, gamma=gamma, clamp=clamp, layers=layers).double()
    features = torch.randn(3, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.nn.functional.normalize(module.transform(features), dim=1).flatten(2)
    units = torch.nn.functional.normalize(features, dim=1).flatten(2)
    expected = torch.zeros_like(values)
    for n in range(3):
        for i in range(12):
            for j in range(12):
                similarity = max(float(units[n, :, i] @ units[n, :, j]), clamp) + (1e-6 if gamma < 1 else 0.0)
                expected[n, :, i] += similarity**gamma * values[n, :, j]
    torch.testing.assert_close(module(features).flatten(2), expected)
