"""supervised_contrastive: rows of one class attract each other."""

import math

import torch
from loss_case import Case, temperature, unit_rows

from counterpoint.losses import supervised_contrastive


def make(generator, rows, width):
    labels = torch.randint(0, 3, (rows,), generator=generator)
    labels[:2] = 7  # some class is there twice
    return {
        "embeddings": unit_rows(generator, rows, width),
        "labels": labels,
        "temperature": temperature(generator),
    }


def oracle(embeddings, labels, temperature):
    rows, names, heat = embeddings.tolist(), labels.tolist(), float(temperature)
    terms = []
    for i, row in enumerate(rows):
        positives = [p for p in range(len(rows)) if p != i and names[p] == names[i]]
        if not positives:
            continue
        score = [sum(a * b for a, b in zip(row, other, strict=True)) / heat for other in rows]
        top = max(value for j, value in enumerate(score) if j != i)
        below = sum(math.exp(value - top) for j, value in enumerate(score) if j != i)
        terms.append(-sum(score[p] - top - math.log(below) for p in positives) / len(positives))
    return sum(terms) / len(terms)


CASES = [
    Case(
        name="supervised_contrastive",
        function="supervised_contrastive",
        call=supervised_contrastive,
        make=make,
        oracle=oracle,
        learnt=("embeddings", "temperature"),
        rows=("embeddings", "labels"),
        sharpness=("temperature", 0.01),
        turned=("embeddings",),
        guess=lambda arguments: math.log(len(arguments["embeddings"]) - 1),
        least=2,
    )
]
