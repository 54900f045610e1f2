"""Symmetric image-text contrast (CLIP)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_rows, same_width, scalar
from counterpoint.losses.engine import logsumexp_similarity
from counterpoint.losses.tiles import working_dtype


def clip_loss(
    image: Tensor,
    text: Tensor,
    *,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
) -> Tensor:
    """Mean of the image-to-text and the text-to-image cross-entropy (Radford et al. 2021, figure 3).

    With logits s_ij = logit_scale <image_i, text_j> + logit_bias::

        loss = 1/(2N) sum_i [ -log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i] ]

    Memory is linear in N; each tile of the matrix is computed once forward for both directions. Nothing is
    normalised or detached inside. ln N is the value of a guesser; 0 is the lower bound.

    Args:
        image: (N, D), usually unit rows. float64, float32, bfloat16 or float16 (accumulated in float32).
        text: (N, D); row i belongs to row i of `image`.
        logit_scale: exp of the learnt log scale, > 0 (1 / temperature); a number or a 0-d tensor with
            gradient.
        logit_bias: added to every logit. It cancels in a softmax: accepted for models that carry one,
            gradient zero.

    Returns:
        0-d, float32 (float64 for float64 rows).

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `logit_scale` not positive.

    Example:
        >>> rows = torch.nn.functional.normalize(torch.eye(4), dim=1)
        >>> round(float(clip_loss(rows, rows, logit_scale=10.0)), 6)
        0.000136
    """
    matrix(image=image, text=text)
    same_rows(image=image, text=text)
    same_width(image=image, text=text)
    dtype = working_dtype(image, text)
    images, texts = image.to(dtype), text.to(dtype)
    scale = positive_scalar("logit_scale", logit_scale, like=images)
    own = torch.arange(len(images), device=images.device)[:, None]  # (N, 1)
    positive = scale * (images * texts).sum(1)  # (N,)
    others, others_of_text = logsumexp_similarity(images, texts, scale=scale, skip=own, columns=True)  # (N,), (N,)
    # -log(e^p / (e^p + e^o)) = -log sigmoid(p - o): no cancellation when the positive is far above the
    # others.
    loss = -(logsigmoid(positive - others) + logsigmoid(positive - others_of_text)).mean() / 2
    if logit_bias is not None:
        loss = loss + 0.0 * scalar("logit_bias", logit_bias, like=images)
    return finite_loss(loss, image=image, text=text)
