"""Opacities and weights along rays, and what rendered and measured ranges ask of signed distances."""

import math

import torch
from loss_case import Case, log_uniform

from counterpoint.losses import (
    eikonal_error,
    free_space_error,
    near_surface_error,
    opacity_from_samples,
    opacity_from_slopes,
    ray_weights,
    rendered_error,
)


def numbers(generator, *shape):
    """Within what half precision can hold of 30,000 times as much."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64).clamp(-2, 2)


def shares(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def log_sigmoid(value):
    return -math.log1p(math.exp(-value)) if value > -30 else value - math.exp(value)


def ratio(total_and_count):
    total, count = total_and_count
    return total / count.clamp(min=1)


def make_samples(generator, rows, width):
    return {
        "sdf": numbers(generator, rows, width + 1),
        "sharpness": torch.tensor(log_uniform(generator, 0.1, 20.0)).double(),
    }


def mean_opacity(sdf, *, sharpness):
    return opacity_from_samples(sdf, sharpness=sharpness).mean()


def oracle_samples(sdf, sharpness):
    total, count = 0.0, 0
    for ray in sdf.tolist():
        for here, there in zip(ray, ray[1:], strict=False):
            drop = log_sigmoid(float(sharpness) * there) - log_sigmoid(float(sharpness) * here)
            total += max(0.0, 1.0 - math.exp(drop)) if drop < 0 else 0.0
            count += 1
    return total / count


def make_slopes(generator, rows, width):
    return {
        "sdf": numbers(generator, rows, width),
        "slopes": -shares(generator, rows, width),
        "deltas": 0.2 + shares(generator, rows, width),
        "sharpness": torch.tensor(log_uniform(generator, 0.1, 5.0)).double(),
    }


def mean_slope_opacity(sdf, slopes, deltas, *, sharpness):
    return opacity_from_slopes(sdf, slopes, deltas, sharpness=sharpness).mean()


def sigmoid(value):
    return math.exp(log_sigmoid(value))


def oracle_slopes(sdf, slopes, deltas, sharpness):
    total, count, h = 0.0, 0, float(sharpness)
    for row in zip(sdf.tolist(), slopes.tolist(), deltas.tolist(), strict=True):
        for distance, slope, delta in zip(*row, strict=True):
            before, after = (sigmoid(h * (distance + sign * slope * delta / 2)) for sign in (-1, 1))
            total += min(1.0, max(0.0, (before - after + 1e-5) / (before + 1e-5)))
            count += 1
    return total / count


def make_alpha(generator, rows, width):
    return {"alpha": shares(generator, rows, width)}


def mean_weight(alpha):
    """Farther samples count more, so that the places of the weights matter."""
    return (ray_weights(alpha) * torch.arange(1, alpha.shape[1] + 1)).sum(dim=1).mean()


def oracle_weights(alpha):
    total = 0.0
    for ray in alpha.tolist():
        left = 1.0
        for place, share in enumerate(ray):
            total += (place + 1) * left * share
            left *= 1.0 - share
    return total / len(alpha)


def make_rendered(generator, rows, width):
    measured = 2 * shares(generator, rows, 1)
    return {
        "weights": shares(generator, rows, width) / width,
        "values": 2 * shares(generator, rows, width),
        "measured": measured,
        "counted": (shares(generator, rows, 1) - 0.3).clamp(min=0),
    }


def mean_error(weights, values, measured, counted):
    return ratio(rendered_error(weights, values, measured, counted))


def mean_normalised_error(weights, values, measured, counted):
    return ratio(rendered_error(weights, values, measured, counted, normalised=True))


def oracle_rendered(weights, values, measured, counted, normalised=False):
    total, count = 0.0, 0
    low, high = float(values.min()), float(values.max())
    for share, value, target, kept in zip(
        weights.tolist(), values.tolist(), measured.tolist(), counted.tolist(), strict=True
    ):
        if kept[0] <= 0:
            continue
        rendered = sum(a * b for a, b in zip(share, value, strict=True))
        if normalised:
            rendered = min(max(rendered / (sum(share) + 1e-10), low), high)
        total += abs(rendered - target[0])
        count += 1
    return total / max(count, 1)


def oracle_normalised(weights, values, measured, counted):
    return oracle_rendered(weights, values, measured, counted, normalised=True)


def make_band(generator, rows, width):
    measured = 2 * shares(generator, rows, 1)
    return {
        "sdf": numbers(generator, rows, width),
        "ranges": (2 * shares(generator, rows, width)).sort(dim=1).values,
        "measured": torch.where(shares(generator, rows, 1) < 0.2, 0.0, measured),
        "truncation": torch.tensor(log_uniform(generator, 0.1, 2.0)).double(),
    }


def mean_free_space(sdf, ranges, measured, *, truncation):
    return ratio(free_space_error(sdf, ranges, measured, truncation=truncation))


def mean_near_surface(sdf, ranges, measured, *, truncation):
    return ratio(near_surface_error(sdf, ranges, measured, truncation=truncation))


def band(sdf, ranges, measured):
    for distances, places, target in zip(sdf.tolist(), ranges.tolist(), measured.tolist(), strict=True):
        if target[0] > 0:
            yield from ((s, r, target[0]) for s, r in zip(distances, places, strict=True))


def oracle_free_space(sdf, ranges, measured, truncation):
    limit = float(truncation)
    found = [max(0.0, limit - s) for s, r, target in band(sdf, ranges, measured) if r < target - limit]
    return sum(found) / max(len(found), 1)


def oracle_near_surface(sdf, ranges, measured, truncation):
    found = [abs(r + s - t) for s, r, t in band(sdf, ranges, measured) if abs(r - t) <= float(truncation)]
    return sum(found) / max(len(found), 1)


def make_gradients(generator, rows, width):
    return {"gradients": numbers(generator, rows, width)}


def mean_eikonal(gradients):
    return ratio(eikonal_error(gradients))


def oracle_eikonal(gradients):
    rows = gradients.tolist()
    return sum((math.sqrt(sum(value**2 for value in row)) - 1) ** 2 for row in rows) / len(rows)


def case(name, function, call, make, oracle, learnt, rows, **more):
    return Case(
        name=name, function=function, call=call, make=make, oracle=oracle, learnt=learnt, rows=rows, tiled=False, **more
    )


BAND = ("sdf", "ranges", "measured")
RENDERED = ("weights", "values", "measured", "counted")
CASES = [
    case(
        "opacity_from_samples",
        "opacity_from_samples",
        mean_opacity,
        make_samples,
        oracle_samples,
        ("sdf", "sharpness"),
        ("sdf",),
        sharpness=("sharpness", 100.0),
    ),
    case(
        "opacity_from_slopes",
        "opacity_from_slopes",
        mean_slope_opacity,
        make_slopes,
        oracle_slopes,
        ("sdf", "slopes", "sharpness"),
        ("sdf", "slopes", "deltas"),
        sharpness=("sharpness", 100.0),
    ),
    case("ray_weights", "ray_weights", mean_weight, make_alpha, oracle_weights, ("alpha",), ("alpha",)),
    case(
        "rendered_error", "rendered_error", mean_error, make_rendered, oracle_rendered, ("weights", "values"), RENDERED
    ),
    case(
        "rendered_error_normalised",
        "rendered_error",
        mean_normalised_error,
        make_rendered,
        oracle_normalised,
        ("weights", "values"),
        RENDERED,
    ),
    case("free_space_error", "free_space_error", mean_free_space, make_band, oracle_free_space, ("sdf",), BAND),
    case("near_surface_error", "near_surface_error", mean_near_surface, make_band, oracle_near_surface, ("sdf",), BAND),
    case(
        "eikonal_error", "eikonal_error", mean_eikonal, make_gradients, oracle_eikonal, ("gradients",), ("gradients",)
    ),
]
