"""Rendering of signed distances along rays, and what a rendered or measured ray asks of the distances.

A distance is positive in front of a surface, negative behind it. Samples of a ray come in order, nearest first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import all_finite, matrix, positive_scalar, same_rows, same_width
from counterpoint.losses.tiles import working_dtype

__all__ = [
    "annealed_slopes",
    "eikonal_error",
    "free_space_error",
    "near_surface_error",
    "opacity_from_samples",
    "opacity_from_slopes",
    "ray_weights",
    "rendered",
    "rendered_error",
    "sampling_slopes",
]

_TINY = 1e-5
"""Added to numerator and denominator of an opacity by the official code of the gradient form."""


def opacity_from_samples(sdf: Tensor, *, sharpness: float | Tensor) -> Tensor:
    """Opacity of the space between consecutive samples of a ray (NeuS, Wang et al. 2021, eq. 13).

    With P_i = sigmoid(h s_i): alpha_i = max((P_i - P_{i+1}) / P_i, 0), computed as 1 - exp of a difference of
    logarithms, so that nothing underflows far behind a surface.

    Args:
        sdf: (R, N), N >= 2: signed distances at the samples of R rays, metres. float64, float32, bfloat16 or float16
            (computed in float32).
        sharpness: h > 0, one over metres; a number or a 0-d tensor with gradient.

    Returns:
        (R, N - 1) in [0, 1], float32 (float64 for float64 distances).

    Raises:
        TypeError: distances that are not floating point.
        ValueError: not (R, N), fewer than two samples, a NaN or an infinity, `sharpness` not positive.

    Example:
        >>> alpha = opacity_from_samples(torch.tensor([[1.0, 0.5, -0.5]]), sharpness=20.0)
        >>> [round(value, 2) for value in alpha[0].tolist()]
        [0.0, 1.0]
    """
    matrix(sdf=sdf)
    if sdf.shape[1] < 2:
        raise ValueError(f"sdf must have shape (R, N) with at least two samples, got {tuple(sdf.shape)}")
    values = sdf.to(working_dtype(sdf))
    all_finite(sdf=values)
    with torch.autocast(sdf.device.type, enabled=False):
        logs = logsigmoid(positive_scalar("sharpness", sharpness, like=values) * values)  # (R, N)
        return -torch.expm1((logs[:, 1:] - logs[:, :-1]).clamp(max=0))


def opacity_from_slopes(sdf: Tensor, slopes: Tensor, deltas: Tensor, *, sharpness: float | Tensor) -> Tensor:
    """Opacity of intervals along which the distance changes at a known rate (NeuS's code, and UniPAD's).

    alpha = clip((sigmoid(h s-) - sigmoid(h s+) + 1e-5) / (sigmoid(h s-) + 1e-5), 0, 1), where s- = s - c d/2 and
    s+ = s + c d/2 are the distances at both ends of an interval of length d.

    Args:
        sdf: (R, N), signed distances in the intervals, metres. float64, float32, bfloat16 or float16.
        slopes: (R, N), change of the distance per metre along the ray, usually at most 0 (`annealed_slopes`,
            `sampling_slopes`).
        deltas: (R, N), lengths of the intervals, metres.
        sharpness: h > 0, one over metres; a number or a 0-d tensor with gradient.

    Returns:
        (R, N) in [0, 1], float32 (float64 for float64 distances).

    Raises:
        TypeError: arguments that are not floating point.
        ValueError: shapes that do not fit, a NaN or an infinity, `sharpness` not positive.

    Example:
        >>> ones = torch.ones(1, 1)
        >>> round(float(opacity_from_slopes(0 * ones, -ones, ones, sharpness=2.0)), 4)
        0.6321
    """
    matrix(sdf=sdf, slopes=slopes, deltas=deltas)
    same_rows(sdf=sdf, slopes=slopes, deltas=deltas)
    same_width(sdf=sdf, slopes=slopes, deltas=deltas)
    dtype = working_dtype(sdf, slopes)
    values, change = sdf.to(dtype), slopes.to(dtype) * deltas.to(dtype) / 2
    all_finite(sdf=values, slopes=slopes.to(dtype), deltas=deltas.to(dtype))
    with torch.autocast(sdf.device.type, enabled=False):
        h = positive_scalar("sharpness", sharpness, like=values)
        before, after = torch.sigmoid(h * (values - change)), torch.sigmoid(h * (values + change))
        return ((before - after + _TINY) / (before + _TINY)).clamp(0, 1)


def annealed_slopes(directions: Tensor, gradients: Tensor, *, annealing: float) -> Tensor:
    """Rate (..., ) at which the distance falls along a ray, never above 0 (NeuS's code): from its spatial gradient.

    -(relu((1 - cos) / 2) (1 - q) + relu(-cos) q) with cos = <direction, gradient>; q = `annealing` goes from 0 (every
    direction falls, so that training gets under way) to 1 (pure).

    Args:
        directions, gradients: (..., 3); directions are unit vectors.
        annealing: in [0, 1].
    """
    if not 0 <= annealing <= 1:
        raise ValueError(f"annealing must lie in [0, 1], got {annealing}")
    cosine = (directions * gradients).sum(dim=-1)
    return -(torch.relu((1 - cosine) / 2) * (1 - annealing) + torch.relu(-cosine) * annealing)


def sampling_slopes(sdf: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and slopes (R, N - 1) in the middle of consecutive samples (R, N), for drawing finer samples.

    The slope is the smaller one of an interval's and the one before it, within [-1000, 0]: it stays falling at an edge.

    Args:
        sdf: (R, N), signed distances at the samples.
        deltas: (R, N - 1), metres between them.
    """
    slopes = (sdf[:, 1:] - sdf[:, :-1]) / (deltas + _TINY)
    before = torch.cat([torch.zeros_like(slopes[:, :1]), slopes[:, :-1]], dim=1)
    return (sdf[:, 1:] + sdf[:, :-1]) / 2, torch.minimum(slopes, before).clamp(-1e3, 0)


def ray_weights(alpha: Tensor, *, slack: float = 0.0) -> Tensor:
    """Shares w_i = T_i alpha_i of a ray that end at each sample, T_i = prod_{j < i} (1 - alpha_j + slack).

    Their sum is at most 1; the rest passes through everything.

    Args:
        alpha: (R, N); what lies outside [0, 1] is taken as 0 or 1.
        slack: 1e-7 in the gradient form's official code, 0 else.

    Raises:
        TypeError: opacities that are not floating point.
        ValueError: not (R, N), a NaN or an infinity.

    Example:
        >>> ray_weights(torch.tensor([[0.5, 0.5, 1.0]])).tolist()
        [[0.5, 0.25, 0.25]]
    """
    matrix(alpha=alpha)
    values = alpha.to(working_dtype(alpha))
    all_finite(alpha=values)
    values = values.clamp(0, 1)
    passed = torch.cumprod(1 - values[:, :-1] + slack, dim=1)  # (R, N - 1)
    return values * torch.cat([torch.ones_like(values[:, :1]), passed], dim=1)


def rendered(weights: Tensor, values: Tensor, *, normalised: bool) -> Tensor:
    """What rays render, (R, 1): sum_i w_i v_i, in the precision of the arguments.

    With `normalised` it is divided by (sum_i w_i + 1e-10) and kept within the smallest and largest of all values, as
    the gradient form's official code does.

    Args:
        weights, values: (R, N), of samples.
        normalised: see above.
    """
    total = (weights * values).sum(dim=1, keepdim=True)
    if not normalised:
        return total
    mean = total / (weights.sum(dim=1, keepdim=True) + 1e-10)
    return mean.clamp(float(values.detach().min()), float(values.detach().max()))


def rendered_error(
    weights: Tensor, values: Tensor, measured: Tensor, counted: Tensor, *, normalised: bool = False
) -> tuple[Tensor, Tensor]:
    """|what a ray renders - what it measured| summed over the rays that count, and their number.

    |sum_i w_i v_i - m|, v_i the ranges or the intensities at the samples (`rendered`).

    Args:
        weights, values: (R, N), of samples.
        measured: (R, 1).
        counted: (R, 1), above 0 where a ray has a return; the measured range itself serves.
        normalised: see `rendered`.

    Returns:
        Sum and number, both 0-d, float32 (float64 for float64 weights); their quotient is the loss.

    Raises:
        TypeError: arguments that are not floating point.
        ValueError: shapes that do not fit, a NaN or an infinity.

    Example:
        >>> weights, ranges = torch.tensor([[0.25, 0.75]]), torch.tensor([[2.0, 4.0]])
        >>> total, count = rendered_error(weights, ranges, torch.tensor([[3.0]]), torch.ones(1, 1))
        >>> float(total), float(count)
        (0.5, 1.0)
    """
    matrix(weights=weights, values=values, measured=measured, counted=counted)
    same_rows(weights=weights, values=values, measured=measured, counted=counted)
    same_width(weights=weights, values=values)
    same_width(measured=measured, counted=counted)
    dtype = working_dtype(weights, values)
    weights, values, measured, counted = (value.to(dtype) for value in (weights, values, measured, counted))
    all_finite(weights=weights, values=values, measured=measured, counted=counted)
    kept = counted > 0
    error = torch.where(kept, (rendered(weights, values, normalised=normalised) - measured).abs(), 0)
    return error.sum(), kept.sum().to(dtype)


def free_space_error(
    sdf: Tensor, ranges: Tensor, measured: Tensor, *, truncation: float | Tensor
) -> tuple[Tensor, Tensor]:
    """relu(t - s) summed over samples clearly in front of the return (r < r* - t), and the number of them (UniPAD).

    Rays without a return (r* <= 0) have no such samples.

    Args:
        sdf, ranges: (R, N), signed distances and ranges of samples, metres. float64, float32, bfloat16 or float16.
        measured: (R, 1), range of the return, metres.
        truncation: t > 0, metres.

    Returns:
        Sum and number, both 0-d, float32 (float64 for float64 distances).

    Raises:
        TypeError: arguments that are not floating point.
        ValueError: shapes that do not fit, a NaN or an infinity, `truncation` not positive.

    Example:
        >>> ranges, measured = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.2]])
        >>> total, count = free_space_error(torch.zeros(1, 3), ranges, measured, truncation=0.5)
        >>> float(total), float(count)
        (1.0, 2.0)
    """
    values, ranges, measured, limit = _samples(sdf, ranges, measured, truncation)
    kept = (measured > 0) & (ranges < measured - limit)
    return torch.where(kept, torch.relu(limit - values), 0).sum(), kept.sum().to(values.dtype)


def near_surface_error(
    sdf: Tensor, ranges: Tensor, measured: Tensor, *, truncation: float | Tensor
) -> tuple[Tensor, Tensor]:
    """|r + s - r*| summed over samples near the return (|r - r*| <= t), and the number of them (UniPAD).

    Arguments, results and errors are those of `free_space_error`.

    Example:
        >>> ranges, measured = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.25]])
        >>> total, count = near_surface_error(torch.zeros(1, 3), ranges, measured, truncation=0.5)
        >>> float(total), float(count)
        (0.25, 1.0)
    """
    values, ranges, measured, limit = _samples(sdf, ranges, measured, truncation)
    kept = (measured > 0) & ((ranges - measured).abs() <= limit)
    return torch.where(kept, (ranges + values - measured).abs(), 0).sum(), kept.sum().to(values.dtype)


def eikonal_error(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """(|g| - 1)^2 summed over the spatial gradients of a distance, and their number: a distance has slope one.

    Args:
        gradients: (P, 3). float64, float32, bfloat16 or float16.

    Returns:
        Sum and number, both 0-d, float32 (float64 for float64 gradients).

    Raises:
        TypeError: gradients that are not floating point.
        ValueError: not two-dimensional, empty, a NaN or an infinity.

    Example:
        >>> float(eikonal_error(torch.tensor([[0.0, 3.0, 4.0]]))[0])
        16.0
    """
    matrix(gradients=gradients)
    values = gradients.to(working_dtype(gradients))
    all_finite(gradients=values)
    total = (torch.linalg.vector_norm(values, dim=1) - 1).square().sum()
    return total, values.new_tensor(float(len(values)))


def _samples(
    sdf: Tensor, ranges: Tensor, measured: Tensor, truncation: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All in the working precision, checked."""
    matrix(sdf=sdf, ranges=ranges, measured=measured)
    same_rows(sdf=sdf, ranges=ranges, measured=measured)
    same_width(sdf=sdf, ranges=ranges)
    if measured.shape[1] != 1:
        raise ValueError(f"measured must have shape (R, 1), one range a ray, got {tuple(measured.shape)}")
    dtype = working_dtype(sdf)
    values, ranges, measured = sdf.to(dtype), ranges.to(dtype), measured.to(dtype)
    all_finite(sdf=values, ranges=ranges, measured=measured)
    return values, ranges, measured, positive_scalar("truncation", truncation, like=values)
