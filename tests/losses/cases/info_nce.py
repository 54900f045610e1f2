"""info_nce: with the batch's keys, a queue, hard negatives, weights, label smoothing."""

import functools
import math

import torch
from loss_case import Case, temperature, unit_rows

from counterpoint.losses import info_nce


def make(generator, rows, width):
    return {
        "query": unit_rows(generator, rows, width),
        "key": unit_rows(generator, rows, width),
        "temperature": temperature(generator),
    }


def make_queue(generator, rows, width):
    return {**make(generator, rows, width), "negatives": unit_rows(generator, 5, width)}


def make_hard(generator, rows, width):
    return {
        **make(generator, rows, width),
        "key": unit_rows(generator, 2 * rows + 1, width),
        "targets": torch.randperm(2 * rows + 1, generator=generator)[:rows],
    }


def make_columns(generator, rows, width):
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    return {**make_queue(generator, rows, width), "negative_bias": bias}


def make_pairs(generator, rows, width):
    bias = torch.randn(rows, rows + 5, generator=generator, dtype=torch.float64)
    bias[torch.rand(bias.shape, generator=generator) < 0.2] = float("-inf")
    return {**make_queue(generator, rows, width), "negative_bias": bias}


def oracle(query, key, temperature, negatives=None, targets=None, negative_bias=None, label_smoothing=0.0):
    candidates = key.tolist() + ([] if negatives is None else negatives.tolist())
    total = 0.0
    for i, row in enumerate(query.tolist()):
        own = i if targets is None else int(targets[i])
        logits = []
        for j, other in enumerate(candidates):
            logit = sum(a * b for a, b in zip(row, other, strict=True)) / float(temperature)
            if negative_bias is not None and j != own:
                bias = negative_bias if negative_bias.dim() == 1 else negative_bias[i]
                place = j - (len(candidates) - len(bias))  # the bias may be of the last columns only
                logit += float(bias[place]) if place >= 0 else 0.0
            if logit != -math.inf:
                logits.append((logit, j == own))
        top = max(logit for logit, _ in logits)
        level = top + math.log(sum(math.exp(logit - top) for logit, _ in logits))
        spread = sum(logit for logit, _ in logits) / len(logits)
        chosen = next(logit for logit, positive in logits if positive)
        total += (1 - label_smoothing) * (level - chosen) + label_smoothing * (level - spread)
    return total / len(query)


def guess(arguments):
    return math.log(len(arguments["key"]) + len(arguments.get("negatives", ())))


LEARNT = ("query", "key", "temperature")
COMMON = {"function": "info_nce", "sharpness": ("temperature", 0.01)}
PLAIN = {**COMMON, "call": info_nce, "oracle": oracle}
SMOOTH = {
    **COMMON,
    "call": functools.partial(info_nce, label_smoothing=0.1),
    "oracle": functools.partial(oracle, label_smoothing=0.1),
}
BATCH = {"rows": ("query", "key"), "turned": ("query", "key"), "guess": guess}
QUEUE = {
    "rows": ("query", "key"),
    "turned": ("query", "key", "negatives"),
    "learnt": (*LEARNT, "negatives"),
}
HARD = {"turned": ("query", "key"), "make": make_hard, "learnt": LEARNT}
CASES = [
    Case(name="info_nce", make=make, learnt=LEARNT, **PLAIN, **BATCH),
    Case(name="info_nce_smooth", make=make, learnt=LEARNT, **SMOOTH, **BATCH),
    Case(name="info_nce_queue", make=make_queue, **PLAIN, **QUEUE),
    Case(name="info_nce_queue_smooth", make=make_queue, **SMOOTH, **QUEUE),
    Case(name="info_nce_hard", **PLAIN, **HARD),
    Case(name="info_nce_hard_smooth", **SMOOTH, **HARD),
    Case(
        name="info_nce_column_weights",
        make=make_columns,
        **PLAIN,
        **{**QUEUE, "learnt": (*LEARNT, "negatives", "negative_bias")},
    ),
    Case(
        name="info_nce_column_weights_smooth",
        make=make_columns,
        **SMOOTH,
        **{**QUEUE, "learnt": (*LEARNT, "negatives", "negative_bias")},
    ),
    Case(
        name="info_nce_pair_weights",
        make=make_pairs,
        **PLAIN,
        **{**QUEUE, "rows": ()},
        linear=False,
    ),
    Case(
        name="info_nce_pair_weights_smooth",
        make=make_pairs,
        **SMOOTH,
        **{**QUEUE, "rows": ()},
        linear=False,
    ),
]
