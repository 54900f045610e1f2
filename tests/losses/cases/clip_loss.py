"""clip_loss: symmetric cross-entropy of images and texts."""

import math

import torch
from loss_case import Case, log_uniform, unit_rows

from counterpoint.losses import clip_loss


def make(generator, rows, width):
    return {
        "image": unit_rows(generator, rows, width),
        "text": unit_rows(generator, rows, width),
        "logit_scale": torch.tensor(log_uniform(generator, 0.1, 100.0), dtype=torch.float64),
    }


def make_with_bias(generator, rows, width):
    return {**make(generator, rows, width), "logit_bias": torch.tensor(-3.0, dtype=torch.float64)}


def oracle(image, text, logit_scale, logit_bias=0.0):
    image, text, scale, bias = image.tolist(), text.tolist(), float(logit_scale), float(logit_bias)
    count, total = len(image), 0.0
    score = [[scale * sum(a * b for a, b in zip(i, t, strict=True)) + bias for t in text] for i in image]
    for own in range(count):
        for rivals in (score[own], [row[own] for row in score]):
            top = max(rivals)
            total -= rivals[own] - top - math.log(sum(math.exp(rival - top) for rival in rivals))
    return total / (2 * count)


COMMON = {
    "function": "clip_loss",
    "call": clip_loss,
    "oracle": oracle,
    "rows": ("image", "text"),
    "sharpness": ("logit_scale", 100.0),
    "turned": ("image", "text"),
    "swapped": ("image", "text"),
    "guess": lambda arguments: math.log(len(arguments["image"])),
}
CASES = [
    Case(name="clip_loss", make=make, learnt=("image", "text", "logit_scale"), **COMMON),
    Case(name="clip_loss_bias", make=make_with_bias, learnt=("image", "text", "logit_bias"), **COMMON),
]
