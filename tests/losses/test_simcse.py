"""The loss of SimCSE and ESimCSE against the written-out sum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoint.losses.simcse import esimcse_loss


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_the_loss_is_the_written_out_sum() -> None:
    generator = torch.Generator().manual_seed(1)
    for case in range(30):
        n, d, m = 2 + case % 5, 3 + case % 7, case % 4
        first, second, hard, queue = (
            torch.randn(rows, d, dtype=torch.float64, generator=generator) for rows in (n, n, n, m)
        )
        weight, temperature = 0.3 * (case % 3), 0.05 + 0.1 * (case % 6)
        total = 0.0
        for i in range(n):
            own = math.exp(_cosine(first[i], second[i]) / temperature)
            others = sum(math.exp(_cosine(first[i], second[j]) / temperature) for j in range(n))
            others += sum(math.exp(_cosine(first[i], q) / temperature) for q in queue)
            if case % 2:
                others += sum(
                    math.exp(_cosine(first[i], hard[j]) / temperature + (weight if i == j else 0.0)) for j in range(n)
                )
            total -= math.log(own / others)
        found = esimcse_loss(
            first,
            second,
            queue=queue,
            hard_negatives=hard if case % 2 else None,
            hard_negative_weight=weight,
            temperature=temperature,
        )
        assert float(found) == pytest.approx(total / n, rel=1e-10)


def test_long_half_precision_vectors_do_not_overflow() -> None:
    first, second = (300 * torch.randn(4, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    half = esimcse_loss(first.half(), second.half(), queue=first.flip(0), temperature=0.05)
    full = esimcse_loss(first.half().float(), second.half().float(), queue=first.flip(0), temperature=0.05)
    assert float(half) == pytest.approx(float(full), rel=1e-4)
