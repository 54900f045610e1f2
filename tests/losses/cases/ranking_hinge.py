"""ranking_hinge: scores fall from column to column, by margins."""

import functools

import torch
from loss_case import Case

from counterpoint.losses import ranking_hinge


def make(generator, rows, width):
    return {"scores": torch.rand(rows, 2 + width % 4, generator=generator, dtype=torch.float64)}


def oracle(scores, large=0.9, small=0.1):
    rows, last = scores.tolist(), scores.shape[1] - 1
    pairs = [(0, 1, large), *((k, k + 1, small) for k in range(1, last))]
    if last > 1:
        pairs.append((0, last, large))
    return sum(sum(max(0.0, row[b] - row[a] + m) for row in rows) / len(rows) for a, b, m in pairs)


CASES = [
    Case(
        name="ranking_hinge",
        function="ranking_hinge",
        call=functools.partial(ranking_hinge, large=0.9, small=0.1),
        make=make,
        oracle=oracle,
        learnt=("scores",),
        rows=("scores",),
        tiled=False,
    )
]
