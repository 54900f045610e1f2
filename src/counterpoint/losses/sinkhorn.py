"""Balanced cluster codes and the prediction of one view's codes from another (SwAV)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, floating, matrix, positive_scalar
from counterpoint.losses.tiles import working_dtype


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Soft codes that use all prototypes equally (Caron et al. 2020, eq. 3-5; Cuturi 2013).

    Starting from Q = exp(scores / epsilon), normalised to a total of one, each iteration gives every
    prototype the mass 1/K and then every sample the mass 1/N. Rows of the result sum to one exactly; columns
    are balanced approximately. With no iterations only the total is normalised. Computed on logarithms, so no
    epsilon over- or underflows.

    Args:
        scores: (N, K) similarities of samples and prototypes, without temperature. In half precision they are
            worked on in float32.
        epsilon: > 0, smaller is nearer to hard codes (0.05).
        iterations: >= 0 (3).

    Returns:
        (N, K) codes without gradient, float32 (float64 for float64 scores).

    Raises:
        TypeError: scores that are not floating point.
        ValueError: not (N, K), no rows, a NaN row, `epsilon` not positive, `iterations` negative.

    Example:
        >>> codes = sinkhorn(torch.eye(4), epsilon=0.05, iterations=3)
        >>> bool(torch.allclose(codes, torch.eye(4), atol=1e-6))
        True
    """
    matrix(scores=scores)
    positive_scalar("epsilon", epsilon, like=scores)
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    logits = scores.detach().to(working_dtype(scores)) / epsilon  # (N, K)
    samples, prototypes = logits.shape
    if iterations == 0:
        codes = samples * torch.exp(logits - logits.flatten().logsumexp(0))
    else:
        of_sample = logits.new_zeros(samples, 1)
        for _ in range(iterations):
            of_prototype = (logits - of_sample).logsumexp(0, keepdim=True) + math.log(prototypes)  # (1, K)
            of_sample = (logits - of_prototype).logsumexp(1, keepdim=True) + math.log(samples)  # (N, 1)
        codes = torch.softmax(logits - of_prototype, dim=1)  # the last normalisation of the samples, exactly
    finite_loss(codes.sum(), scores=scores)
    return codes


def swapped_prediction(
    scores: Tensor,
    codes: Tensor,
    *,
    temperature: float | Tensor,
    assigned: Sequence[int] | None = None,
) -> Tensor:
    """Predict the codes of a view from every other view (Caron et al. 2020, eq. 2 and section 3.2).

    With A the assigned views, V all views and p_v = softmax(scores_v / t)::

        loss = 1/|A| sum_{i in A} 1/(V-1) sum_{v != i} -1/N sum_n sum_k codes_i[n,k] log p_v[n,k]

    The codes are constants. ln K is the value of a guesser (and of a collapse).

    Args:
        scores: (N, V, K) similarities of every view and prototype, V >= 2. float64, float32, bfloat16 or
            float16 (worked on in float32).
        codes: (N, A, K) of the assigned views, rows summing to one; no gradient reaches them.
        temperature: t > 0; a number or a 0-d tensor with gradient. Not to be applied to the scores that make
            the codes.
        assigned: the view of each code, A distinct indices in [0, V); the first A by default.

    Returns:
        0-d, float32 (float64 for float64 scores).

    Raises:
        TypeError: scores or codes that are not floating point.
        ValueError: shapes that do not fit, fewer than two views, a NaN row, `temperature` not positive.

    Example:
        >>> scores = torch.zeros(4, 2, 3)
        >>> codes = torch.full((4, 2, 3), 1 / 3)
        >>> round(float(swapped_prediction(scores, codes, temperature=0.1)), 4)
        1.0986
    """
    views = _checked_views(scores, codes, assigned)
    values = scores.to(working_dtype(scores))
    scale = 1.0 / positive_scalar("temperature", temperature, like=values)
    log_probability = torch.log_softmax(values * scale, dim=2)  # (N, V, K)
    targets = codes.detach().to(log_probability)  # (N, A, K)
    total = log_probability.sum(1, keepdim=True)  # (N, 1, K)
    others = total - log_probability[:, views]  # (N, A, K): the other views' log-probabilities, summed
    pairs = len(views) * (scores.shape[1] - 1)
    return finite_loss(-(targets * others).sum() / (len(scores) * pairs), scores=scores, codes=codes)


def _checked_views(scores: Tensor, codes: Tensor, assigned: Sequence[int] | None) -> list[int]:
    for name, value in (("scores", scores), ("codes", codes)):
        floating(name, value)
        if value.dim() != 3 or value.numel() == 0:
            raise ValueError(f"{name} must have shape (N, views, K) with no empty dimension, got {tuple(value.shape)}")
    if len(scores) != len(codes) or scores.shape[2] != codes.shape[2]:
        raise ValueError(
            f"scores (N, V, K) and codes (N, A, K) must agree in N and K, got {tuple(scores.shape)} and "
            f"{tuple(codes.shape)}"
        )
    if scores.shape[1] < 2:
        raise ValueError(f"scores must hold at least two views to swap, got shape {tuple(scores.shape)}")
    views = list(range(codes.shape[1])) if assigned is None else [int(view) for view in assigned]
    if len(views) != codes.shape[1] or len(set(views)) != len(views) or not set(views) <= set(range(scores.shape[1])):
        raise ValueError(
            f"assigned must name {codes.shape[1]} different views in [0, {scores.shape[1]}), one a code, got {views}"
        )
    return views
