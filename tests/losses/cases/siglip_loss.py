"""siglip_loss: every image-text pair a yes/no question."""

import functools
import math

import torch
from loss_case import Case, log_uniform, unit_rows

from counterpoint.losses import siglip_loss


def make(generator, rows, width):
    return {
        "image": unit_rows(generator, rows, width),
        "text": unit_rows(generator, rows, width),
        "logit_scale": torch.tensor(log_uniform(generator, 0.1, 100.0), dtype=torch.float64),
        "logit_bias": torch.randn((), generator=generator, dtype=torch.float64) * 5,
    }


def oracle(image, text, logit_scale, logit_bias, negative_only=False):
    image, text = image.tolist(), text.tolist()
    total = 0.0
    for i, first in enumerate(image):
        for j, second in enumerate(text):
            logit = float(logit_scale) * sum(a * b for a, b in zip(first, second, strict=True)) + float(logit_bias)
            signed = logit if i == j and not negative_only else -logit
            # -log sigmoid(s) = log(1 + exp(-s)), without overflow
            total += max(-signed, 0.0) + math.log1p(math.exp(-abs(signed)))
    return total / len(image)


def guess(arguments):
    count = len(arguments["image"])
    one = {**arguments, "image": arguments["image"][:1], "text": arguments["text"][:1]}
    return oracle(**one) + (count - 1) * oracle(**one, negative_only=True)


COMMON = {
    "function": "siglip_loss",
    "make": make,
    "learnt": ("image", "text", "logit_scale", "logit_bias"),
    "rows": ("image", "text"),
    "sharpness": ("logit_scale", 100.0),
    "turned": ("image", "text"),
    "swapped": ("image", "text"),
}
CASES = [
    Case(name="siglip_loss", call=siglip_loss, oracle=oracle, guess=guess, **COMMON),
    Case(
        name="siglip_loss_negative_only",
        call=functools.partial(siglip_loss, negative_only=True),
        oracle=functools.partial(oracle, negative_only=True),
        **COMMON,
    ),
]
