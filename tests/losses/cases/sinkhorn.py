"""sinkhorn and swapped_prediction: balanced codes, and predicting them from other views."""

import functools
import math

import torch
from loss_case import Case, temperature, unit_rows

from counterpoint.losses import sinkhorn, swapped_prediction


def make_scores(generator, rows, width):
    return {"scores": unit_rows(generator, rows, width + 1)}


def codes_sum(scores, epsilon=0.05, iterations=3):
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    return (codes * torch.linspace(-1, 1, codes.shape[1], dtype=codes.dtype)).square().sum()


def oracle_codes(scores, epsilon=0.05, iterations=3):
    count, prototypes = scores.shape
    top = float(scores.max())
    mass = [[math.exp((float(scores[n, k]) - top) / epsilon) for n in range(count)] for k in range(prototypes)]
    total = sum(map(sum, mass))
    mass = [[value / total for value in row] for row in mass]
    for _ in range(iterations):
        mass = [[value / sum(row) / prototypes for value in row] for row in mass]
        columns = [sum(row[n] for row in mass) for n in range(count)]
        mass = [[value / columns[n] / count for n, value in enumerate(row)] for row in mass]
    weights = torch.linspace(-1, 1, prototypes, dtype=torch.float64).tolist()
    return sum((count * mass[k][n] * weights[k]) ** 2 for k in range(prototypes) for n in range(count))


def make_views(generator, rows, width):
    codes = torch.rand(rows, 2, width + 1, generator=generator, dtype=torch.float64)
    return {
        "scores": unit_rows(generator, rows, 4, width + 1),
        "codes": codes / codes.sum(2, keepdim=True),
        "temperature": temperature(generator),
    }


def oracle_swapped(scores, codes, temperature, assigned=(0, 1)):
    count, views, prototypes = scores.shape
    total = 0.0
    for place, i in enumerate(assigned):
        for v in range(views):
            if v == i:
                continue
            for n in range(count):
                logits = [float(value) / float(temperature) for value in scores[n, v]]
                top = max(logits)
                level = top + math.log(sum(math.exp(logit - top) for logit in logits))
                total -= sum(float(codes[n, place, k]) * (logits[k] - level) for k in range(prototypes))
    return total / (len(assigned) * (views - 1) * count)


SWAPPED = {
    "function": "swapped_prediction",
    "make": make_views,
    "learnt": ("scores", "temperature"),
    "rows": ("scores", "codes"),
    "sharpness": ("temperature", 0.01),
    "tiled": False,
}
CASES = [
    Case(
        name="sinkhorn",
        function="sinkhorn",
        call=codes_sum,
        make=make_scores,
        oracle=oracle_codes,
        learnt=(),
        rows=("scores",),
    ),
    Case(name="swapped_prediction", call=swapped_prediction, oracle=oracle_swapped, **SWAPPED),
    Case(
        name="swapped_prediction_assigned",
        call=functools.partial(swapped_prediction, assigned=(3, 1)),
        oracle=functools.partial(oracle_swapped, assigned=(3, 1)),
        **SWAPPED,
    ),
]
