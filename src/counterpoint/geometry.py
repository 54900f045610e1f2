"""Measures of an embedding: alignment, uniformity, tolerance, effective rank, duplicates.

Memory is linear in the number of rows. Rows are taken as they are unless a function says that it normalises;
alignment, uniformity and tolerance are meant for unit rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

__all__ = [
    "alignment",
    "duplicate_rate",
    "effective_rank",
    "hardest_share",
    "tolerance",
    "tolerance_all_pairs",
    "uniformity",
    "unit_length",
]

TILE = 2048
"""Rows and columns of the pairs that are held at once."""


def unit_length(rows: Tensor) -> Tensor:
    """Rows (N, D) of unit length, in float32 at least: the length of a half-precision row may overflow."""
    return normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)


def alignment(first: Tensor, second: Tensor, *, exponent: float = 2.0) -> Tensor:
    """Mean distance of positives to a power (Wang and Isola 2020, section 4.1): mean_i |x_i - y_i|^exponent.

    Args:
        first: (N, D).
        second: (N, D), row i the positive of row i of `first`.
        exponent: > 0.

    Returns:
        0-d, differentiable; 0 when positives coincide, at most 2^exponent for unit rows. Lower is better.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that differ, no rows, a NaN row, `exponent` not positive.

    Example:
        >>> float(alignment(torch.eye(2), torch.eye(2).flip(0)))
        2.0
    """
    first, second = _rows("first", first), _rows("second", second)
    if first.shape != second.shape:
        raise ValueError(
            f"first and second must have the same shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if not exponent > 0:
        raise ValueError(f"exponent must be positive, got {exponent}")
    difference = first - second  # (N, D)
    if exponent == 2:
        return difference.square().sum(1).mean()
    return torch.linalg.vector_norm(difference, dim=1).pow(exponent).mean()


def uniformity(embeddings: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of pairs (Wang and Isola 2020, section 4.1).

    log mean_{i<j} exp(-temperature |x_i - x_j|^2)

    Args:
        embeddings: (N, D), N >= 2.
        temperature: > 0.

    Returns:
        0-d, differentiable; 0 for a collapse to one point, lower is more uniform.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: fewer than two rows, a NaN row, `temperature` not positive.

    Example:
        >>> round(float(uniformity(torch.eye(3))), 4)
        -4.0
    """
    rows = _rows("embeddings", embeddings, least=2)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    parts = []
    for above, left in _tiles(len(rows)):
        inputs = (rows[above], rows[left], temperature, above == left)
        parts.append(checkpoint(_log_potential, *inputs, use_reentrant=False))
    return torch.stack(parts).logsumexp(0) - math.log(len(rows) * (len(rows) - 1) / 2)


def _log_potential(first: Tensor, second: Tensor, temperature: float, diagonal: bool) -> Tensor:
    """Log-sum-exp of -temperature * squared distance over the pairs of a tile, each pair once."""
    squares = first.square().sum(1)[:, None] + second.square().sum(1)[None] - 2 * first @ second.T  # (n, m)
    levels = -temperature * squares.clamp(min=0)
    if diagonal:
        below = torch.ones_like(levels, dtype=torch.bool).tril()
        levels = levels.masked_fill(below, float("-inf"))
        if len(levels) == 1:  # no pair: a log-sum-exp of nothing has no gradient
            return levels.new_tensor(float("-inf"))
    return levels.flatten().logsumexp(0)


def tolerance(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean similarity of two rows of one class (Wang and Liu 2021, section 4.3): mean of <x_i, x_j>, i != j.

    Divided by the number of same-class pairs, as its implementations do; higher means tighter classes.

    Args:
        embeddings: (N, D).
        labels: (N,) integers.

    Returns:
        0-d, differentiable; in [-1, 1] for unit rows.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: no rows, a NaN row, labels of another length, no two rows of one class.

    Example:
        >>> float(tolerance(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])))
        1.0
    """
    rows = _rows("embeddings", embeddings)
    if labels.shape != (len(rows),):
        raise ValueError(f"labels must have shape ({len(rows)},), one a row, got {tuple(labels.shape)}")
    _, group = labels.to(rows.device).unique(return_inverse=True)  # (N,)
    size = torch.bincount(group)  # (classes,)
    pairs = int((size * (size - 1)).sum())
    if pairs == 0:
        raise ValueError(f"labels must hold some class twice, got {len(rows)} rows of {len(size)} classes")
    # sum_{i != j} <x_i, x_j> of a class is |sum_i x_i|^2 - sum_i |x_i|^2.
    total = rows.new_zeros(len(size), rows.shape[1]).index_add(0, group, rows)  # (classes, D)
    return (total.square().sum() - rows.square().sum()) / pairs


def tolerance_all_pairs(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Tolerance as the paper writes it, divided by all pairs: mean_{i != j} <x_i, x_j> [same label].

    Arguments, result and errors are those of `tolerance`.
    """
    size = labels.unique(return_counts=True)[1]  # (classes,)
    same, pairs = int((size * (size - 1)).sum()), len(labels) * (len(labels) - 1)
    return tolerance(embeddings, labels) * (same / pairs)


@torch.no_grad()
def hardest_share(query: Tensor, key: Tensor, *, temperature: float, hardest: float = 0.1) -> float:
    """Share of the push of a softmax contrast that falls on the hardest negatives (Wang and Liu 2021, section 3.2).

    The gradient on the similarity s_ij of a negative, relative to that on the positive, is
    exp(s_ij / temperature) / sum_k exp(s_ik / temperature) over the negatives k != i. This is the sum of that over the
    tenth of the negatives that are most similar, meant over the queries.

    Args:
        query: (N, D), N >= 2.
        key: (N, D); row i is the positive of query i, all other rows are its negatives.
        temperature: > 0.
        hardest: share of the negatives, in (0, 1]; at least one is taken.

    Returns:
        From `hardest` (all are pushed alike: a high temperature) to 1 (only the hardest are).

    Raises:
        TypeError: rows that are not floating point.
        ValueError: fewer than two rows, a NaN row, shapes that differ, `temperature` or `hardest` out of range.

    Example:
        >>> round(hardest_share(torch.eye(11), torch.eye(11), temperature=1.0), 6)
        0.1
    """
    query, key = _rows("query", query, least=2), _rows("key", key, least=2)
    if query.shape != key.shape:
        raise ValueError(f"query and key must have the same shape, got {tuple(query.shape)} and {tuple(key.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if not 0 < hardest <= 1:
        raise ValueError(f"hardest must lie in (0, 1], got {hardest}")
    count, total = max(1, int(hardest * (len(key) - 1) + 0.5)), 0.0
    for start in range(0, len(query), TILE):
        logits = query[start : start + TILE] @ key.T / temperature  # (n, N)
        own = torch.arange(len(logits), device=logits.device)
        logits[own, own + start] = float("-inf")
        total += float(logits.softmax(dim=1).topk(count, dim=1).values.sum())
    return total / len(query)


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007, eq. 3).

    Of the rows as they are, without centring: a collapse to one point is rank 1, whatever noise is around it.

    Args:
        embeddings: (N, D).

    Returns:
        0-d float64 without gradient, from 1 (one direction) to min(N, D); 0 when every row is zero.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: no rows, or a NaN row.

    Example:
        >>> round(float(effective_rank(torch.eye(3))), 6)
        3.0
    """
    rows = _rows("embeddings", embeddings).double()
    gram = rows.T @ rows if rows.shape[1] <= len(rows) else rows @ rows.T  # of the smaller side
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = values.sum()
    if float(total) == 0.0:
        return total
    share = values / total
    return torch.exp(-torch.xlogy(share, share).sum())


@torch.no_grad()
def duplicate_rate(embeddings: Tensor, *, threshold: float = 0.999) -> float:
    """Share of rows that have another row within a cosine of `threshold`.

    Args:
        embeddings: (N, D); rows are normalised. Zero rows are duplicates of each other.
        threshold: in [-1, 1].

    Returns:
        In [0, 1]; 0 for a single row.

    Raises:
        TypeError: rows that are not floating point.
        ValueError: no rows, a NaN row, or `threshold` outside [-1, 1].

    Example:
        >>> duplicate_rate(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        0.5
    """
    rows = _rows("embeddings", embeddings)
    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must lie in [-1, 1], got {threshold}")
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # (N, 1)
    zero = (length == 0).to(rows)
    # Zero rows get a direction of their own: one collapsed point.
    unit = torch.cat([rows / (length + zero), zero], dim=1)  # (N, D + 1)
    nearest = unit.new_full((len(unit),), -2.0)  # (N,)
    for above, left in _tiles(len(unit)):
        cosine = unit[above] @ unit[left].T  # (n, m)
        if above == left:
            cosine.fill_diagonal_(-2.0)
        else:
            nearest[left] = torch.maximum(nearest[left], cosine.amax(0))
        nearest[above] = torch.maximum(nearest[above], cosine.amax(1))
    # Rounding may put the cosine of equal rows a little below one.
    return float((nearest >= threshold - 1e-6).double().mean())


def _tiles(count: int) -> Iterator[tuple[slice, slice]]:
    """Tiles on and above the diagonal of a (count, count) matrix."""
    for above in range(0, count, TILE):
        for left in range(above, count, TILE):
            yield slice(above, min(above + TILE, count)), slice(left, min(left + TILE, count))


def _rows(name: str, value: Tensor, *, least: int = 1) -> Tensor:
    """Checked rows; half precision in float32."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating tensor, got {got}")
    if value.dim() != 2 or len(value) < least or value.shape[1] == 0:
        raise ValueError(f"{name} must have shape (N, D) with N >= {least}, got {tuple(value.shape)}")
    bad = ~torch.isfinite(value.detach().sum(1))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        if not bool(torch.isfinite(value[row]).all()):
            raise ValueError(f"{name} must be finite, but row {row} holds NaN or infinity")
    return value if value.dtype == torch.float64 else value.float()
