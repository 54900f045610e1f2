"""pixel_cross_entropy and box_region_loss: the class of every pixel, and which of them boxes cover."""

import math

import torch
from loss_case import Case, log_uniform

from counterpoint.losses import box_region_loss, pixel_cross_entropy


def make_pixels(generator, rows, width):
    classes = 2 + width % 2
    labels = torch.randint(0, classes + 1, (rows, 4, 3), generator=generator)
    return {
        "scores": 2 * torch.rand(rows, classes, 2, 2, generator=generator, dtype=torch.float64) - 1,
        "labels": labels.masked_fill(labels == classes, 255),
        "temperature": torch.tensor(log_uniform(generator, 0.01, 10.0), dtype=torch.float64),
    }


def between(values, place, count):
    """Linear interpolation at cell `place` of `count` over a shorter list, as areas."""
    position = max((place + 0.5) * len(values) / count - 0.5, 0.0)
    low = int(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])


def oracle_pixels(scores, labels, temperature):
    total, pixels = 0.0, labels.numel()
    for maps, mask in zip(scores.tolist(), labels.tolist(), strict=True):
        for i, line in enumerate(mask):
            for j, label in enumerate(line):
                if label == 255:
                    continue
                logits = []
                for grid in maps:
                    column = [between(values, j, len(line)) for values in grid]
                    logits.append(between(column, i, len(mask)) / float(temperature))
                top = max(logits)
                total += top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[label]
    return total / pixels


def make_boxes(generator, rows, width):
    classes = 2 + width % 2
    corners = torch.randint(-6, 24, (rows, 3, 2, 2), generator=generator).sort(dim=2).values
    return {
        "scores": 4 * torch.randn(rows, classes, 4, 4, generator=generator, dtype=torch.float64).clamp(-0.5, 0.5),
        "boxes": corners.flatten(2),
        "labels": torch.randint(-1, classes, (rows, 3), generator=generator),
    }


def oracle_boxes(scores, boxes, labels):
    classes, height, width = scores.shape[1:]
    total, count = 0.0, 0
    for maps, found, kinds in zip(scores.tolist(), boxes.tolist(), labels.tolist(), strict=True):
        target = {}
        for (left, top, right, bottom), kind in zip(found, kinds, strict=True):
            if kind < 0:
                continue
            x0, x1 = (min(max(int(side / 4), 0), width - 1) for side in (left, right))
            y0, y1 = (min(max(int(side / 4), 0), height - 1) for side in (top, bottom))
            for y in range(y0, y1):
                for x in range(x0, x1):
                    target.setdefault((y, x), set()).add(kind)
        for (y, x), kinds_here in target.items():
            for kind in range(classes):
                score = maps[kind][y][x]
                signed = score if kind in kinds_here else -score
                total += math.log1p(math.exp(-abs(signed))) + max(-signed, 0.0)
                count += 1
    return total / max(count, 1)


CASES = [
    Case(
        name="pixel_cross_entropy",
        function="pixel_cross_entropy",
        call=pixel_cross_entropy,
        make=make_pixels,
        oracle=oracle_pixels,
        learnt=("scores", "temperature"),
        rows=("scores", "labels"),
        sharpness=("temperature", 0.01),
        tiled=False,
    ),
    Case(
        name="box_region_loss",
        function="box_region_loss",
        call=box_region_loss,
        make=make_boxes,
        oracle=oracle_boxes,
        learnt=("scores",),
        rows=("scores", "boxes", "labels"),
        tiled=False,
    ),
]
