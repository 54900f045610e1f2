"""Cells that show the same spot, and the losses of them, against loops written from the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoint.losses.pixel_consistency import pixel_consistency, pixel_contrast, positive_cells

PLACES = torch.tensor([[0.0, 0.0, 0.8, 0.9], [0.9, 0.1, 0.2, 0.7], [0.0, 0.0, 0.3, 0.3]]).double()
OTHERS = torch.tensor([[0.2, 0.1, 1.0, 1.0], [0.1, 0.0, 0.8, 1.0], [0.7, 0.7, 1.0, 1.0]]).double()
"""The second picture's first view is mirrored; the third's views do not overlap."""


def _cells(rows: int = 3, height: int = 3, width: int = 4, seed: int = 0) -> Tensor:
    drawn = torch.randn(rows, 5, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


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
