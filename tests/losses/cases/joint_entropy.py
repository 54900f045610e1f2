"""joint_entropy: pairs of rows fill the product of two spaces."""

import math

from loss_case import Case, temperature, unit_rows

from counterpoint.losses import joint_entropy


def make(generator, rows, width):
    second = 2 * unit_rows(generator, rows, width)
    second[rows // 2 :] = 0.0  # a background's salient row
    return {"first": unit_rows(generator, rows, width), "second": second, "temperature": temperature(generator)}


def oracle(first, second, temperature):
    rows = [a + b for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    total = 0.0
    for row in rows:
        squares = [sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for other in rows]
        total -= math.log(sum(math.exp(-square / (2 * float(temperature))) for square in squares) / len(rows))
    return total / len(rows)


CASES = [
    Case(
        name="joint_entropy",
        function="joint_entropy",
        call=joint_entropy,
        make=make,
        oracle=oracle,
        learnt=("first", "second", "temperature"),
        rows=("first", "second"),
        sharpness=("temperature", 0.01),
        turned=("first",),
        swapped=("first", "second"),
        guess=lambda arguments: 0.0,
    )
]
