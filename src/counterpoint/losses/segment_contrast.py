"""Contrast of segments: points of one segment attract each other, and foreground segments leave the background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import finite_loss, floating, positive_scalar, same_rows, same_width
from counterpoint.losses.engine import logsumexp_similarity
from counterpoint.losses.tiles import working_dtype

__all__ = ["foreground_contrast", "geometric_contrast", "segment_means"]


def geometric_contrast(
    query: Tensor,
    key: Tensor,
    query_segments: Tensor,
    key_segments: Tensor,
    anchors: Tensor,
    *,
    temperature: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """Each anchor point picks the points of its own segment among all points of the other view of its scene.

    The project's definition of the geometric term of FAC (Liu et al. 2023, arXiv 2303.06388; its code is not public).
    With s_ab = <q_a, k_b> / t over the points b of the same scene, and P(a) those of a's segment::

        loss_a = log sum_b exp(s_ab) - 1/|P(a)| sum_{b in P(a)} s_ab

    Anchors without a positive are left out, and so are points of segment -1. With one point a segment this is InfoNCE.
    One-sided. Nothing is normalised or detached inside; memory is linear in the points. ln(number of b) is the value of
    a guesser.

    Args:
        query: (B, N, C), usually unit vectors. float64, float32, bfloat16 or float16 (accumulated in float32).
        key: (B, M, C), the other view of the same scenes.
        query_segments: (B, N) integers, -1 where there is no point.
        key_segments: (B, M), numbered alike.
        anchors: (B, N) of bool: which points are asked, usually those of foreground segments.
        temperature: t > 0; a number or a 0-d tensor with gradient.

    Returns:
        Sum over the anchors, 0-d, float32 (float64 for float64 points), at least 0; and their number, 0-d int64, which
        may be 0.

    Raises:
        TypeError: points that are not floating point, segments that are not integers.
        ValueError: shapes that do not fit, no points, a NaN, `temperature` not positive.

    Example:
        >>> points = torch.eye(4)[None]
        >>> segments = torch.arange(4)[None]
        >>> total, count = geometric_contrast(points, points, segments, segments, segments >= 0, temperature=0.1)
        >>> round(float(total / count), 6)
        0.000136
    """
    _points(query=query, key=key)
    same_rows(query=query, key=key)
    same_width(query=query, key=key)
    _segments("query_segments", query_segments, query)
    _segments("key_segments", key_segments, key)
    if not isinstance(anchors, Tensor) or anchors.dtype != torch.bool or anchors.shape != query.shape[:2]:
        raise ValueError(f"anchors must be a mask of bool of shape {tuple(query.shape[:2])}, one for each point")
    dtype = working_dtype(query, key)
    queries, keys = query.to(dtype), key.to(dtype)
    scale = 1.0 / positive_scalar("temperature", temperature, like=queries)
    total, count = queries[:, :0].sum() + keys[:, :0].sum() + 0 * scale, 0
    for points, others, own, theirs, asked in zip(
        queries, keys, query_segments, key_segments, anchors, strict=True
    ):  # one scene: (N, C), (M, C), (N,), (M,), (N,)
        known, place = theirs[theirs >= 0].unique(return_inverse=True)  # (S,), (M',)
        asked = asked & torch.isin(own, known)
        if not bool(asked.any()):
            continue
        others = others[theirs >= 0]  # (M', C)
        means, _ = segment_means(others[None], place[None], len(known))  # (1, S, C): a mean of products is one product
        wanted = means[0][torch.searchsorted(known, own[asked])]  # (A, C)
        level, _ = logsumexp_similarity(points[asked].contiguous(), others.contiguous(), scale=scale)  # (A,)
        total = total + (level - scale * (points[asked] * wanted).sum(dim=1)).sum()
        count += int(asked.sum())
    return finite_loss(total, query=query, key=key), torch.tensor(count, device=query.device)


def foreground_contrast(
    query: Tensor, key: Tensor, kinds: Tensor, *, hardest: int, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Each foreground segment picks itself in the other view among the background segments that resemble it most.

    The project's definition of the foreground term of FAC (Liu et al. 2023, arXiv 2303.06388; its code is not public).
    With B(i) the `hardest` background segments of the scene with the largest <q_i, k_b>::

        loss_i = -log( exp(<q_i, k_i> / t) / (exp(<q_i, k_i> / t) + sum_{b in B(i)} exp(<q_i, k_b> / t)) )

    Other foreground segments are never negatives: they may be of the same class. Scenes without background are left
    out. One-sided. Nothing is normalised or detached inside.

    Args:
        query: (B, S, C), a vector for each segment, usually of unit length. float64, float32, bfloat16 or float16.
        key: (B, S, C), the same segments in the other view.
        kinds: (B, S) integers: 1 foreground, 0 background, -1 where a segment lacks points in either view.
        hardest: negatives of each, at most; scenes with fewer background segments use all.
        temperature: t > 0; a number or a 0-d tensor with gradient.

    Returns:
        Sum over the foreground segments, 0-d, float32 (float64 for float64 segments), at least 0; and their number, 0-d
        int64, which may be 0.

    Raises:
        TypeError: segments that are not floating point, kinds that are not integers.
        ValueError: shapes that do not fit, no segments, a NaN, `hardest` below 1, `temperature` not positive.

    Example:
        >>> segments = torch.eye(3)[None]
        >>> kinds = torch.tensor([[1, 0, 0]])
        >>> total, count = foreground_contrast(segments, segments, kinds, hardest=2, temperature=0.1)
        >>> round(float(total / count), 6)
        9.1e-05
    """
    _points(query=query, key=key)
    same_rows(query=query, key=key)
    same_width(query=query, key=key)
    if query.shape != key.shape:
        raise ValueError(f"query and key must have the same segments, got {tuple(query.shape)} and {tuple(key.shape)}")
    _segments("kinds", kinds, query)
    if hardest < 1:
        raise ValueError(f"hardest must be at least 1, got {hardest}")
    dtype = working_dtype(query, key)
    queries, keys = query.to(dtype), key.to(dtype)
    scale = 1.0 / positive_scalar("temperature", temperature, like=queries)
    total, count = queries[:, :0].sum() + keys[:, :0].sum() + 0 * scale, 0
    with torch.autocast(query.device.type, enabled=False):
        for first, second, kind in zip(queries, keys, kinds, strict=True):  # one scene: (S, C), (S, C), (S,)
            things, ground = kind == 1, kind == 0
            if not bool(things.any()) or not bool(ground.any()):
                continue
            others = first[things] @ second[ground].T  # (F, G)
            others = others.topk(min(hardest, others.shape[1]), dim=1).values  # (F, k)
            positive = scale * (first[things] * second[things]).sum(dim=1)  # (F,)
            total = total - logsigmoid(positive - (scale * others).logsumexp(dim=1)).sum()
            count += int(things.sum())
    return finite_loss(total, query=query, key=key), torch.tensor(count, device=query.device)


def segment_means(points: Tensor, segments: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean of the points of each segment, and how many there are.

    Args:
        points: (B, N, C).
        segments: (B, N) integers below `count`; points of segment -1 are left out, whatever they hold.
        count: S, segments of a scene.

    Returns:
        (B, S, C), zero for a segment without points, and (B, S) int64.
    """
    inside = segments >= 0
    scene = torch.arange(len(points), device=points.device)[:, None].expand_as(segments)
    place = (scene * count + segments)[inside]  # (P,)
    sums = points.new_zeros(len(points) * count, points.shape[2]).index_add(0, place, points[inside])
    counts = torch.bincount(place, minlength=len(points) * count)
    means = sums / counts.clamp(min=1).to(sums)[:, None]
    return means.unflatten(0, (len(points), count)), counts.unflatten(0, (len(points), count))


def _points(**named: Tensor) -> None:
    """Each is a floating tensor (B, N, C) with B, N, C >= 1."""
    for name, value in named.items():
        floating(name, value)
        if value.dim() != 3 or value.numel() == 0:
            raise ValueError(f"{name} must have shape (B, N, C), none of them 0, got {tuple(value.shape)}")


def _segments(name: str, value: Tensor, points: Tensor) -> None:
    """An integer for each point."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be an integer tensor, got {got}")
    if value.shape != points.shape[:2]:
        wanted = tuple(points.shape[:2])
        raise ValueError(f"{name} must have shape {wanted}, one for each point, got {tuple(value.shape)}")
