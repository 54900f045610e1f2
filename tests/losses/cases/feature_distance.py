"""feature_distance: mean squared difference of each row's features."""

import torch
from loss_case import Case

from counterpoint.losses import feature_distance


def make(generator, rows, width):
    edited, original = 2 * torch.rand(2, rows, width, generator=generator, dtype=torch.float64) - 1
    return {"edited": edited, "original": original}


def total(edited, original):
    return feature_distance(edited, original).sum()


def oracle(edited, original):
    rows = zip(edited.tolist(), original.tolist(), strict=True)
    return sum(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x) for x, y in rows)


CASES = [
    Case(
        name="feature_distance",
        function="feature_distance",
        call=total,
        make=make,
        oracle=oracle,
        learnt=("edited", "original"),
        rows=("edited", "original"),
        swapped=("edited", "original"),
        guess=lambda arguments: 0.0,
        tiled=False,
    )
]
