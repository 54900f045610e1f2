"""supremix_loss: negatives weigh more the farther their target; mixtures are constants."""

import math

import torch
from loss_case import Case, log_uniform, unit_rows

from counterpoint.losses import supremix_loss

UNIT = 0.5  # targets are multiples of it


def make(generator, rows, width):
    return {
        "first": unit_rows(generator, rows, width),
        "second": unit_rows(generator, rows, width),
        "steps": torch.randint(0, 4, (rows,), generator=generator),
        "temperature": torch.tensor(log_uniform(generator, 0.01, 10.0), dtype=torch.float64),
    }


def make_mixed(generator, rows, width):
    drawn = torch.rand(2 * rows, 2 * rows, generator=generator, dtype=torch.float64)
    return {**make(generator, rows, width), "coefficients": drawn}


def weighted(first, second, steps, *, temperature):
    return supremix_loss(first, second, UNIT * steps.double(), temperature=temperature)


def windowed(first, second, steps, *, temperature):
    return supremix_loss(first, second, UNIT * steps.double(), window=3 * UNIT, temperature=temperature)


def mixed(first, second, steps, *, coefficients, temperature):
    return supremix_loss(first, second, UNIT * steps.double(), coefficients=coefficients, temperature=temperature)


def _dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def _mix(share, left, right):
    return [share * a + (1 - share) * b for a, b in zip(left, right, strict=True)]


def oracle(first, second, steps, temperature, window=None, coefficients=None):
    rows, targets = [*first.tolist(), *second.tolist()], [UNIT * step for step in [*steps.tolist(), *steps.tolist()]]
    tau, total, every = float(temperature), 0.0, range(len(rows))
    for i, anchor in enumerate(rows):
        entries = [(_dot(anchor, rows[o]), abs(targets[i] - targets[o])) for o in every if o != i]
        positives = [similarity for similarity, distance in entries if distance == 0]
        for k in every if coefficients is not None else ():
            if targets[k] != targets[i]:
                share = float(coefficients[i, k])
                distance = abs(targets[i] - (share * targets[i] + (1 - share) * targets[k]))
                entries.append((_dot(anchor, _mix(share, anchor, rows[k])), distance))
        for j in every if window is not None else ():
            for k in every:
                if 0 < targets[i] - targets[j] < window and 0 < targets[k] - targets[i] < window:
                    share = (targets[k] - targets[i]) / (targets[k] - targets[j])
                    positives.append(_dot(anchor, _mix(share, rows[j], rows[k])))
                    entries.append((positives[-1], 0.0))
        top = max(similarity for similarity, _ in entries) / tau
        level = top + math.log(sum((1 + distance) * math.exp(s / tau - top) for s, distance in entries))
        total += level - sum(positives) / len(positives) / tau
    return total / len(rows)


def oracle_windowed(**arguments):
    return oracle(**arguments, window=3 * UNIT)


def guess(arguments):
    targets = [UNIT * step for step in [*arguments["steps"].tolist(), *arguments["steps"].tolist()]]
    weights = [sum(1 + abs(own - other) for other in targets) - 1 for own in targets]  # without the row itself
    return sum(map(math.log, weights)) / len(weights)


SHARED = {
    "function": "supremix_loss",
    "sharpness": ("temperature", 0.01),
    "turned": ("first", "second"),
    "linear": False,
    "tiled": False,
}
ROWS = {"rows": ("first", "second", "steps")}

CASES = [
    Case(
        name="supremix_loss",
        call=weighted,
        make=make,
        oracle=oracle,
        learnt=("first", "second", "temperature"),
        swapped=("first", "second"),
        guess=guess,
        **ROWS,
        **SHARED,
    ),
    # Mixtures are detached: of the rows only tests/losses/test_ordinal_contrast.py knows the gradient.
    Case(
        name="supremix_loss_window",
        call=windowed,
        make=make,
        oracle=oracle_windowed,
        learnt=("temperature",),
        swapped=("first", "second"),
        **ROWS,
        **SHARED,
    ),
    Case(name="supremix_loss_mixed", call=mixed, make=make_mixed, oracle=oracle, learnt=("temperature",), **SHARED),
]
