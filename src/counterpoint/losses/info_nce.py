"""InfoNCE, with negatives from the batch, from a queue, hard, or weighted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import (
    finite_loss,
    matrix,
    positive_scalar,
    same_rows,
    same_width,
    smoothing,
    target_columns,
)
from counterpoint.losses.engine import logsumexp_similarity
from counterpoint.losses.tiles import working_dtype


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    negatives: Tensor | None = None,
    targets: Tensor | None = None,
    negative_bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    temperature: float | Tensor,
) -> Tensor:
    """Cross-entropy of picking each query's own key among all candidates (van den Oord et al. 2018, eq. 4).

    The candidates are the rows of `key`, then those of `negatives`. With s_ij = <query_i, candidate_j> / t::

        loss = 1/N sum_i -log( exp(s_i,targets(i)) / sum_j exp(s_ij + bias_ij) )

    so every other row of `key` is a negative too. For a queue *instead of* the batch's other keys see
    `moco_loss`. One-sided: for the symmetric form see `clip_loss` or `nt_xent`. Nothing is normalised or
    detached inside; memory is linear in N + M. ln(number of candidates) is the value of a guesser.

    Args:
        query: (N, D). float64, float32, bfloat16 or float16 (accumulated in float32).
        key: (N, D), row i the positive of query i; with `targets` any number of rows, for example the
            positives followed by every query's hard negatives.
        negatives: (M, D) shared by all queries, for example a queue; detach it if it is to get no gradient.
            None and (0, D) mean none, so that a queue may start empty.
        targets: (N,) int64, the candidate that is the positive of each query; 0, 1, ... N - 1 by default.
        negative_bias: added to the logits of negatives, as log-weights; -inf takes a false negative out. Its
            last dimension counts the candidates (key rows + M), or the M negatives alone; (C,) weighs
            columns, cheaply; (N, C) weighs pairs and is the only part whose memory is N x C. Entries at
            positives are ignored.
        label_smoothing: in [0, 1); this share of the target is spread evenly over all candidates (those with
            bias -inf aside).
        temperature: t > 0; a number or a 0-d tensor with gradient.

    Returns:
        0-d, float32 (float64 for float64 rows).

    Raises:
        TypeError: rows that are not floating point, targets that are not integers.
        ValueError: shapes that do not fit, no rows, a NaN row, `temperature` not positive, targets out of
            range.

    Example:
        >>> rows = torch.eye(4)
        >>> round(float(info_nce(rows, rows, temperature=0.1)), 6)
        0.000136
    """
    matrix(query=query, key=key)
    same_width(query=query, key=key)
    if targets is None:
        same_rows(query=query, key=key)
    dtype = working_dtype(query, key)
    queries, candidates = query.to(dtype), _candidates(query, key, negatives).to(dtype)
    scale = 1.0 / positive_scalar("temperature", temperature, like=queries)
    own = target_columns(targets, rows=len(queries), candidates=len(candidates), device=queries.device)  # (N,)
    bias = _bias(negative_bias, len(queries), len(key), len(candidates), dtype)
    positive = scale * (queries * candidates[own]).sum(1)  # (N,)
    others, _ = logsumexp_similarity(queries, candidates, scale=scale, bias=bias, skip=own[:, None])  # (N,)
    # -log(e^p / (e^p + e^o)) = -log sigmoid(p - o): no cancellation when the positive is far above the
    # others.
    loss = -logsigmoid(positive - others).mean()
    if smoothing(label_smoothing):
        loss = loss + label_smoothing * (positive - _mean_logit(queries, candidates, scale, bias, own)).mean()
    return finite_loss(loss, query=query, key=key, negatives=negatives, negative_bias=_weights(negative_bias))


def moco_loss(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    label_smoothing: float = 0.0,
    temperature: float | Tensor,
) -> Tensor:
    """InfoNCE of each query's own key against a queue (He et al. 2020, eq. 1).

    The other keys of the batch are *not* negatives; they enter the queue after the step. With t =
    temperature::

        loss = 1/N sum_i -log( exp(<q_i, k_i> / t) / (exp(<q_i, k_i> / t) + sum_m exp(<q_i, queue_m> / t)) )

    Nothing is normalised or detached inside. ln(1 + M) is the value of a guesser.

    Args:
        query: (N, D). float64, float32, bfloat16 or float16 (accumulated in float32).
        key: (N, D), row i the positive of query i.
        queue: (M, D), M >= 1.
        label_smoothing: in [0, 1); this share of the target is spread evenly over the 1 + M candidates.
        temperature: t > 0; a number or a 0-d tensor with gradient.

    Returns:
        0-d, float32 (float64 for float64 rows).

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `temperature` not positive.

    Example:
        >>> rows = torch.eye(4)
        >>> round(float(moco_loss(rows[:2], rows[:2], rows[2:], temperature=1.0)), 4)
        0.5514
    """
    matrix(query=query, key=key, queue=queue)
    same_rows(query=query, key=key)
    same_width(query=query, key=key, queue=queue)
    dtype = working_dtype(query, key, queue)
    queries, keys, rows = query.to(dtype), key.to(dtype), queue.to(dtype)
    scale = 1.0 / positive_scalar("temperature", temperature, like=queries)
    positive = scale * (queries * keys).sum(1)  # (N,)
    others, _ = logsumexp_similarity(queries, rows, scale=scale)  # (N,)
    loss = -logsigmoid(positive - others).mean()
    if smoothing(label_smoothing):
        mean = (positive + scale * (queries * rows.sum(0)).sum(1)) / (1 + len(rows))  # (N,)
        loss = loss + label_smoothing * (positive - mean).mean()
    return finite_loss(loss, query=query, key=key, queue=queue)


def _candidates(query: Tensor, key: Tensor, negatives: Tensor | None) -> Tensor:
    if negatives is None or (isinstance(negatives, Tensor) and negatives.dim() == 2 and len(negatives) == 0):
        return key
    matrix(negatives=negatives)
    same_width(query=query, key=key, negatives=negatives)
    dtype = torch.promote_types(key.dtype, negatives.dtype)
    return torch.cat([key.to(dtype), negatives.to(dtype)])


def _bias(bias: Tensor | None, rows: int, keys: int, candidates: int, dtype: torch.dtype) -> Tensor | None:
    """`negative_bias` over all candidates: (C,) or (N, C)."""
    if bias is None:
        return None
    if not isinstance(bias, Tensor) or not bias.is_floating_point():
        got = bias.dtype if isinstance(bias, Tensor) else type(bias).__name__
        raise TypeError(f"negative_bias must be a floating tensor of log-weights, got {got}")
    alone = candidates - keys
    fits = bias.dim() in (1, 2) and bias.shape[-1] in {candidates, alone} - {0}
    if not fits or (bias.dim() == 2 and len(bias) != rows):
        raise ValueError(
            f"negative_bias must have shape (C,) or ({rows}, C) with C = {candidates} (all candidates)"
            f"{f' or {alone} (the negatives)' if alone else ''}, got {tuple(bias.shape)}"
        )
    bias = bias.to(dtype)
    if bias.shape[-1] == candidates:
        return bias
    return torch.cat([bias.new_zeros((*bias.shape[:-1], keys)), bias], dim=-1)


def _weights(bias: Tensor | None) -> Tensor | None:
    """The bias as `finite_loss` is to judge it: -inf is allowed."""
    return None if bias is None else bias.detach().masked_fill(bias.detach() == float("-inf"), 0.0)


def _mean_logit(queries: Tensor, candidates: Tensor, scale: Tensor, bias: Tensor | None, own: Tensor) -> Tensor:
    """(N,) mean logit of the candidates in play; linear in the batch, as sum_j <q, k_j> = <q, sum_j k_j>."""
    if bias is None:
        return scale * (queries * candidates.sum(0)).sum(1) / len(candidates)
    with torch.autocast(queries.device.type, enabled=False):
        absent = bias == float("-inf")  # (C,) or (N, C)
        present = (~absent).to(bias)
        extra = bias.masked_fill(absent, 0.0)
        total = scale * (queries * (present @ candidates)).sum(1) + extra.sum(-1)  # (N,)
        # The positive is in play whatever its bias, and its bias does not count.
        if bias.dim() == 1:
            at_own, there = extra[own], present[own]
        else:
            at_own, there = extra.gather(1, own[:, None])[:, 0], present.gather(1, own[:, None])[:, 0]
        missing = scale * (queries * candidates[own]).sum(1) * (1 - there)
        return (total - at_own + missing) / (present.sum(-1) + 1 - there)
