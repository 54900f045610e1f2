"""moco_loss: the own key against a queue."""

import functools
import math

from loss_case import Case, temperature, unit_rows

from counterpoint.losses import moco_loss


def make(generator, rows, width):
    return {
        "query": unit_rows(generator, rows, width),
        "key": unit_rows(generator, rows, width),
        "queue": unit_rows(generator, 6, width),
        "temperature": temperature(generator),
    }


def oracle(query, key, queue, temperature, label_smoothing=0.0):
    total = 0.0
    for row, own in zip(query.tolist(), key.tolist(), strict=True):
        rivals = [own, *queue.tolist()]
        logits = [sum(a * b for a, b in zip(row, rival, strict=True)) / float(temperature) for rival in rivals]
        top = max(logits)
        level = top + math.log(sum(math.exp(logit - top) for logit in logits))
        target = (1 - label_smoothing) * logits[0] + label_smoothing * sum(logits) / len(logits)
        total += level - target
    return total / len(query)


COMMON = {
    "function": "moco_loss",
    "make": make,
    "learnt": ("query", "key", "queue", "temperature"),
    "rows": ("query", "key"),
    "sharpness": ("temperature", 0.01),
    "turned": ("query", "key", "queue"),
}
CASES = [
    Case(name="moco_loss", call=moco_loss, oracle=oracle, **COMMON),
    Case(
        name="moco_loss_smooth",
        call=functools.partial(moco_loss, label_smoothing=0.1),
        oracle=functools.partial(oracle, label_smoothing=0.1),
        **COMMON,
    ),
]
