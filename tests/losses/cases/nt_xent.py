"""nt_xent: each view picks its partner among all other views."""

import math

from loss_case import Case, temperature, unit_rows

from counterpoint.losses import nt_xent


def make(generator, rows, width):
    return {
        "first": unit_rows(generator, rows, width),
        "second": unit_rows(generator, rows, width),
        "temperature": temperature(generator),
    }


def oracle(first, second, temperature):
    views, count, heat = first.tolist() + second.tolist(), len(first), float(temperature)
    total = 0.0
    for i, view in enumerate(views):
        partner = (i + count) % (2 * count)
        score = [sum(a * b for a, b in zip(view, other, strict=True)) / heat for other in views]
        top = max(value for j, value in enumerate(score) if j != i)
        below = sum(math.exp(value - top) for j, value in enumerate(score) if j != i)
        total -= score[partner] - top - math.log(below)
    return total / (2 * count)


CASES = [
    Case(
        name="nt_xent",
        function="nt_xent",
        call=nt_xent,
        make=make,
        oracle=oracle,
        learnt=("first", "second", "temperature"),
        rows=("first", "second"),
        sharpness=("temperature", 0.01),
        turned=("first", "second"),
        swapped=("first", "second"),
        guess=lambda arguments: math.log(2 * len(arguments["first"]) - 1),
    )
]
