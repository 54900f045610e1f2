"""Supervised contrast: rows of one class attract each other."""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.losses.checks import finite_loss, integers, matrix, positive_scalar
from counterpoint.losses.engine import logsumexp_within
from counterpoint.losses.tiles import working_dtype


def supervised_contrastive(embeddings: Tensor, labels: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Mean log-probability of the other rows of a row's class (Khosla et al. 2020, eq. 2, L_out).

    With P(i) the other rows of i's class and A the rows that have one::

        s_ij = <z_i, z_j> / t
        loss = 1/|A| sum_{i in A} -1/|P(i)| sum_{p in P(i)} log( exp(s_ip) / sum_{j != i} exp(s_ij) )

    A row without another of its class is a negative only. The official code multiplies by t / 0.07; the
    paper's equation, which is followed here, does not. Nothing is normalised or detached inside; memory is
    linear in N.

    Args:
        embeddings: (N, D), usually unit rows; several views of an example are several rows with one label.
            float64, float32, bfloat16 or float16 (accumulated in float32).
        labels: (N,) integers.
        temperature: t > 0; a number or a 0-d tensor with gradient.

    Returns:
        0-d, float32 (float64 for float64 rows).

    Raises:
        TypeError: rows that are not floating point, labels that are not integers.
        ValueError: shapes that do not fit, no rows, a NaN row, `temperature` not positive, no two rows of one
            class.

    Example:
        >>> rows = torch.eye(2).repeat(2, 1)
        >>> round(float(supervised_contrastive(rows, torch.tensor([0, 1, 0, 1]), temperature=0.1)), 6)
        9.1e-05
    """
    matrix(embeddings=embeddings)
    integers("labels", labels, len(embeddings))
    rows = embeddings.to(working_dtype(embeddings))
    scale = 1.0 / positive_scalar("temperature", temperature, like=rows)
    _, group = labels.to(rows.device).unique(return_inverse=True)  # (N,)
    size = torch.bincount(group)  # (classes,)
    positives = (size[group] - 1).to(rows)  # (N,)
    anchors = positives > 0
    if not bool(anchors.any()):
        raise ValueError(
            f"labels must hold some class twice, got {len(labels)} rows of {len(size)} classes; "
            "draw batches with several rows, or two views, of each class"
        )
    # The sum over a row's positives is linear in the rows: the sum of its class, less itself.
    total = rows.new_zeros(len(size), rows.shape[1]).index_add(0, group, rows)  # (classes, D)
    mean = ((total[group] - rows) * rows).sum(1) / positives.clamp(min=1)  # (N,)
    itself = torch.arange(len(rows), device=rows.device)[:, None]  # (N, 1)
    level = logsumexp_within(rows, scale=scale, skip=itself)  # (N,)
    loss = (level - scale * mean)[anchors].mean()
    return finite_loss(loss, embeddings=embeddings)
