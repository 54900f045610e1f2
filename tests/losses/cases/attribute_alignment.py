"""attribute_alignment: rows of like attribute lie near each other, one coordinate an attribute."""

import functools
import math

import torch
from loss_case import Case, temperature

from counterpoint.losses import attribute_alignment


def make_continuous(generator, rows, width):
    latents, attributes = 2 * torch.rand(2, rows, width, generator=generator, dtype=torch.float64) - 1
    return {"latents": latents, "attributes": attributes, "bandwidth": temperature(generator)}


def make_discrete(generator, rows, width):
    attributes = torch.randint(0, 3, (rows, width), generator=generator).double()
    latents = 2 * torch.rand(rows, width, generator=generator, dtype=torch.float64) - 1
    return {"latents": latents, "attributes": attributes}


def oracle(latents, attributes, bandwidth=None):
    x, y, total = latents.tolist(), attributes.tolist(), 0.0
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    for i, j in pairs:
        for a, b, u, v in zip(x[i], x[j], y[i], y[j], strict=True):
            weight = float(u == v) if bandwidth is None else math.exp(-((u - v) ** 2) / (2 * float(bandwidth)))
            total += weight * (a - b) ** 2
    return total / max(len(pairs), 1) / len(x[0])


CASES = [
    Case(
        name="attribute_alignment",
        function="attribute_alignment",
        call=attribute_alignment,
        make=make_continuous,
        oracle=oracle,
        learnt=("latents",),
        rows=("latents", "attributes"),
        sharpness=("bandwidth", 0.01),
        guess=lambda arguments: 0.0,
    ),
    Case(
        name="attribute_alignment_discrete",
        function="attribute_alignment",
        call=functools.partial(attribute_alignment, bandwidth=None),
        make=make_discrete,
        oracle=oracle,
        learnt=("latents",),
        rows=("latents", "attributes"),
        guess=lambda arguments: 0.0,
    ),
]
