"""geometric_contrast and foreground_contrast: points of one segment, and foreground against background."""

import math

import torch
from loss_case import Case, temperature, unit_rows

from counterpoint.losses import foreground_contrast, geometric_contrast

POINTS = 5


def mean_geometry(query, key, query_segments, key_segments, anchors, temperature):
    """Total over count."""
    total, count = geometric_contrast(query, key, query_segments, key_segments, anchors, temperature=temperature)
    return total / count.clamp(min=1)


def mean_foreground(query, key, kinds, temperature):
    """Total over count."""
    total, count = foreground_contrast(query, key, kinds, hardest=2, temperature=temperature)
    return total / count.clamp(min=1)


def make_geometry(generator, rows, width):
    segments = torch.randint(-1, 3, (2, rows, POINTS), generator=generator)
    anchors = torch.rand(rows, POINTS, generator=generator) < 0.7
    segments[:, :, 0], anchors[:, 0] = 1, True  # the first points always meet
    return {
        "query": unit_rows(generator, rows, POINTS, width),
        "key": unit_rows(generator, rows, POINTS, width),
        "query_segments": segments[0],
        "key_segments": segments[1],
        "anchors": anchors,
        "temperature": temperature(generator),
    }


def dot(first, second, heat):
    return sum(a * b for a, b in zip(first, second, strict=True)) / heat


def oracle_geometry(query, key, query_segments, key_segments, anchors, temperature):
    total, count, heat = 0.0, 0, float(temperature)
    for points, others, own, theirs, asked in zip(
        query.tolist(), key.tolist(), query_segments.tolist(), key_segments.tolist(), anchors.tolist(), strict=True
    ):
        for a, point in enumerate(points):
            positives = [b for b, segment in enumerate(theirs) if segment == own[a] and segment >= 0]
            if not asked[a] or not positives:
                continue
            scores = {b: dot(point, others[b], heat) for b, segment in enumerate(theirs) if segment >= 0}
            top = max(scores.values())
            level = top + math.log(sum(math.exp(score - top) for score in scores.values()))
            total += level - sum(scores[b] for b in positives) / len(positives)
            count += 1
    return total / count


def make_foreground(generator, rows, width):
    kinds = torch.randint(-1, 2, (rows, POINTS), generator=generator)
    kinds[:, 0], kinds[:, 1] = 1, 0
    return {
        "query": unit_rows(generator, rows, POINTS, width),
        "key": unit_rows(generator, rows, POINTS, width),
        "kinds": kinds,
        "temperature": temperature(generator),
    }


def oracle_foreground(query, key, kinds, temperature):
    total, count, heat = 0.0, 0, float(temperature)
    for first, second, kind in zip(query.tolist(), key.tolist(), kinds.tolist(), strict=True):
        for i, point in enumerate(first):
            if kind[i] != 1:
                continue
            negatives = [dot(point, other, heat) for b, other in enumerate(second) if kind[b] == 0]
            scores = [dot(point, second[i], heat), *sorted(negatives, reverse=True)[:2]]
            top = max(scores)
            total += top + math.log(sum(math.exp(score - top) for score in scores)) - scores[0]
            count += 1
    return total / count


CASES = [
    Case(
        name="geometric_contrast",
        function="geometric_contrast",
        call=mean_geometry,
        make=make_geometry,
        oracle=oracle_geometry,
        learnt=("query", "key", "temperature"),
        rows=("query", "key", "query_segments", "key_segments", "anchors"),
        sharpness=("temperature", 0.01),
        turned=("query", "key"),
    ),
    Case(
        name="foreground_contrast",
        function="foreground_contrast",
        call=mean_foreground,
        make=make_foreground,
        oracle=oracle_foreground,
        learnt=("query", "key", "temperature"),
        rows=("query", "key", "kinds"),
        sharpness=("temperature", 0.01),
        turned=("query", "key"),
        tiled=False,
    ),
]
