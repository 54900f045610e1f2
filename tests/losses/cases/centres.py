"""centre_focal_error: a map of centres against the map that is wanted."""

import math

import torch
from loss_case import Case

from counterpoint.losses import centre_focal_error


def make_maps(generator, rows, width):
    classes = 1 + width % 3
    heat = torch.rand(rows, classes, 3, 4, generator=generator, dtype=torch.float64)
    return {
        "scores": torch.randn(rows, classes, 3, 4, generator=generator, dtype=torch.float64).clamp(-2, 2),
        "heat": torch.where(heat > 0.8, 1.0, heat),
    }


def mean_error(scores, heat):
    total, count = centre_focal_error(scores, heat)
    return total / count


def oracle(scores, heat):
    total, count = 0.0, len(scores)
    for score, wanted in zip(scores.flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-score))
        if wanted == 1:
            total -= (1 - p) ** 2 * math.log(p)
            count += 1
        else:
            total -= (1 - wanted) ** 4 * p**2 * math.log(1 - p)
    return total / count


CASES = [
    Case(
        name="centre_focal_error",
        function="centre_focal_error",
        call=mean_error,
        make=make_maps,
        oracle=oracle,
        learnt=("scores",),
        rows=("scores", "heat"),
        tiled=False,
    )
]
