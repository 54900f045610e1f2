"""Both terms of BECLR by themselves: what gets a gradient, and negatives out of a memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoint.losses.attraction_repulsion import memory_loss, negative_loss, positive_loss


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))


def test_the_target_gets_no_gradient() -> None:
    target, prediction = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    positive_loss(prediction, target).backward()
    assert target.grad is None and prediction.grad is not None


def test_negatives_out_of_a_memory_in_loops() -> None:
    rows, bank = torch.randn(6, 5, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    cosines = [[_cosine(row, entry) for entry in bank] for row in rows]
    counted = sum(cosine <= 0.2 for line in cosines for cosine in line)
    sums = [sum(math.exp((cosine if cosine <= 0.2 else 0.0) / 2) for cosine in line) / counted for line in cosines]
    found = memory_loss(rows, bank, threshold=0.2, temperature=2.0)
    assert float(found) == pytest.approx(math.log(sum(sums) / 6), abs=1e-12)


def test_one_picture_has_no_negatives() -> None:
    with pytest.raises(ValueError, match="no negatives among the 2 views"):
        negative_loss(torch.randn(2, 3), temperature=1.0)
