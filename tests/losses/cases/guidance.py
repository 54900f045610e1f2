"""negative_probability and residual_guidance: away from a guide, along a direction."""

import math

import torch
from loss_case import Case, log_uniform, unit_rows

from counterpoint.losses import negative_probability, residual_guidance


def make_guides(generator, rows, width):
    return {
        "image": unit_rows(generator, rows, width),
        "guides": unit_rows(generator, 3, width),
        "logit_scale": torch.tensor(log_uniform(generator, 0.1, 100.0), dtype=torch.float64),
    }


def mean_probability(image, guides, *, logit_scale):
    return negative_probability(image, guides, logit_scale=logit_scale).mean()


def oracle_probability(image, guides, logit_scale):
    image, guides, scale, total = image.tolist(), guides.tolist(), float(logit_scale), 0.0
    for row in image:
        logits = [scale * sum(a * b for a, b in zip(row, guide, strict=True)) for guide in guides]
        top = max(logits)
        total += math.exp(logits[0] - top) / sum(math.exp(logit - top) for logit in logits)
    return total / len(image)


def make_residual(generator, rows, width):
    return {
        "image": unit_rows(generator, rows, width),
        "residual": unit_rows(generator, 1, width),
        "threshold": torch.rand((), generator=generator, dtype=torch.float64),
    }


def oracle_residual(image, residual, threshold):
    direction = residual.tolist()[0]
    cosines = [sum(a * b for a, b in zip(row, direction, strict=True)) for row in image.tolist()]
    return sum((cosine - float(threshold)) ** 2 for cosine in cosines) / len(cosines)


CASES = [
    Case(
        name="negative_probability",
        function="negative_probability",
        call=mean_probability,
        make=make_guides,
        oracle=oracle_probability,
        learnt=("image", "guides", "logit_scale"),
        rows=("image",),
        sharpness=("logit_scale", 100.0),
        turned=("image", "guides"),
        tiled=False,
    ),
    Case(
        name="residual_guidance",
        function="residual_guidance",
        call=residual_guidance,
        make=make_residual,
        oracle=oracle_residual,
        learnt=("image", "residual", "threshold"),
        rows=("image",),
        turned=("image", "residual"),
        tiled=False,
    ),
]
