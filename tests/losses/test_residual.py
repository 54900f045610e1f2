"""The residual vector step by step, and the shift that removes a bias."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoint.losses.residual import residual_vector, shifted, token_scores


def _rows_of(shape: tuple[int, int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_residual_against_loops() -> None:
    backlit, well_lit = _rows_of((5, 4), 0) + 1, 3 * _rows_of((7, 4), 1)
    found = residual_vector(backlit, well_lit)

    def unit(values: list[float]) -> list[float]:
        length = math.sqrt(sum(value * value for value in values))
        return [value / length for value in values]

    means = []
    for rows in (backlit.tolist(), well_lit.tolist()):
        units = [unit(row) for row in rows]
        means.append(unit([sum(column) / len(units) for column in zip(*units, strict=True)]))
    direction = unit([p - n for n, p in zip(*means, strict=True)])
    for ours, theirs in zip((found.negative, found.positive, found.direction), (*means, direction), strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs).double())
    assert float(found.threshold) == pytest.approx(sum(p * d for p, d in zip(means[1], direction, strict=True)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_shift_removes_an_injected_bias(seed: int) -> None:
    """Well-lit pictures also show snow: words for snow stand on top, and are gone after the shift."""
    dim, generator = 512, torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    light, snow = basis[0], basis[1]

    def around(centre: Tensor, count: int, spread: float) -> Tensor:
        return centre + spread * torch.randn(count, dim, generator=generator, dtype=torch.float64)

    backlit, well_lit = around(basis[2] - light, 200, 0.05), around(basis[2] + light + 1.5 * snow, 200, 0.05)
    words = torch.cat([around(snow, 15, 0.02), around(light, 1, 0.02), around(0 * snow, 400, dim**-0.5)])
    residual = residual_vector(backlit, well_lit)
    scores = token_scores(words, residual.direction)
    assert set(scores.topk(15).indices.tolist()) <= set(range(16))
    after, removed = shifted(residual, words, 15)
    left = token_scores(words, after.direction)[:15].abs().mean()
    assert float(left) < 0.1 < 0.4 < float(scores[:15].mean())
    assert float(after.direction @ light) > float(residual.direction @ light)
    assert float(after.direction @ removed) == pytest.approx(0.0, abs=1e-12)
    assert float(after.threshold) == pytest.approx(float(residual.positive @ after.direction))
    for count in (0, 417):
        with pytest.raises(ValueError, match=r"count must lie in \[1, 416\]"):
            shifted(residual, words, count)
