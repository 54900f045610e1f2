"""NT-Xent: two views of each example, all other views as negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from counterpoint.losses.checks import finite_loss, matrix, positive_scalar, same_rows, same_width
from counterpoint.losses.engine import logsumexp_within
from counterpoint.losses.tiles import working_dtype


def nt_xent(first: Tensor, second: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Each of the 2N views picks its partner among the other 2N - 1 (Chen et al. 2020, eq. 1).

    With z = [first; second] and p(i) the partner of view i::

        loss = 1/(2N) sum_i -log( exp(<z_i, z_p(i)> / t) / sum_{j != i} exp(<z_i, z_j> / t) )

    Nothing is normalised or detached inside; memory is linear in N, and only half of the symmetric matrix is
    computed. ln(2N - 1) is the value of a guesser; a batch of one has no negatives and the value 0.

    Args:
        first: (N, D), usually unit rows. float64, float32, bfloat16 or float16 (accumulated in float32).
        second: (N, D); row i is another view of the example of row i of `first`.
        temperature: t > 0; a number or a 0-d tensor with gradient.

    Returns:
        0-d, float32 (float64 for float64 rows).

    Raises:
        TypeError: rows that are not floating point.
        ValueError: shapes that do not fit, no rows, a NaN row, `temperature` not positive.

    Example:
        >>> rows = torch.eye(4)
        >>> round(float(nt_xent(rows, rows, temperature=0.1)), 6)
        0.000272
    """
    matrix(first=first, second=second)
    same_rows(first=first, second=second)
    same_width(first=first, second=second)
    dtype = working_dtype(first, second)
    views = torch.cat([first.to(dtype), second.to(dtype)])  # (2N, D)
    scale = 1.0 / positive_scalar("temperature", temperature, like=views)
    itself = torch.arange(len(views), device=views.device)
    skip = torch.stack([itself, itself.roll(len(first))], dim=1)  # (2N, 2): itself and its partner
    positive = scale * (views[: len(first)] * views[len(first) :]).sum(1)  # (N,)
    others = logsumexp_within(views, scale=scale, skip=skip)  # (2N,)
    loss = -logsigmoid(positive.repeat(2) - others).mean()
    return finite_loss(loss, first=first, second=second)
