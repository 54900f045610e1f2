"""Sigmoid image-text contrast (SigLIP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_rows, same_width, scalar
from counterpoint.losses.softplus import sum_softplus
from counterpoint.losses.tiles import working_dtype


def siglip_loss(
    image: Tensor,
    text: Tensor,
    *,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    negative_only: bool = False,
) -> Tensor:
    """Every image-text pair is a yes/no question of its own (Zhai et al. 2023, eq. 1).

    With logits s_ij = logit_scale <image_i, text_j> + logit_bias, z_ij = 1 on the diagonal and -1 elsewhere::

        loss = -1/N sum_ij log sigmoid(z_ij s_ij)

    Divided by the number of images N, not by N^2, as in the paper. Nothing is normalised or detached inside;
    memory is linear in N.

    Args:
        image: (N, D), usually unit rows. float64, float32, bfloat16 or float16 (accumulated in float32).
        text: (N, D), row i belongs to row i of `image`; (M, D) with `negative_only`.
        logit_scale: exp of the learnt log scale, > 0; a number or a 0-d tensor with gradient (start: 10).
        logit_bias: a number or a 0-d tensor with gradient (start: -10).
        negative_only: no pair belongs together (z = -1 everywhere), as for texts of other images.

    Returns:
        0-d, float32 (float64 for float64 rows).

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `logit_scale` not positive.

    Example:
        >>> rows = torch.eye(4)
        >>> round(float(siglip_loss(rows, rows, logit_scale=10.0, logit_bias=-10.0)), 4)
        0.6933
    """
    matrix(image=image, text=text)
    same_width(image=image, text=text)
    if not negative_only:
        same_rows(image=image, text=text)
    dtype = working_dtype(image, text)
    images, texts = image.to(dtype), text.to(dtype)
    scale = positive_scalar("logit_scale", logit_scale, like=images)
    bias = scalar("logit_bias", logit_bias, like=images)
    own = None if negative_only else torch.arange(len(images), device=images.device)[:, None]  # (N, 1)
    # -log sigmoid(-s) = softplus(s) for the negatives.
    loss = sum_softplus(images, texts, scale=scale, bias=bias, skip=own)
    if not negative_only:
        positive = scale * (images * texts).sum(1) + bias  # (N,)
        loss = loss - logsigmoid(positive).sum()
    return finite_loss(loss / len(images), image=image, text=text)
