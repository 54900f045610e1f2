"""Inputs and jobs of the losses: rows on the sphere, forward and backward, gradients as output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.compare import same
from benchmarks.work import Arrays, Compare, Job

SHOWN = 64
"""Rows of each gradient that are compared."""


def unit_rows(*shapes: Sequence[int], device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Rows of unit length with gradient; of equal shapes the second resembles the first, as in training."""
    generator = torch.Generator().manual_seed(0)
    rows = [normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in shapes]
    if len(rows) == 2 and rows[0].shape == rows[1].shape:
        rows[1] = normalize(rows[0] + 2 * rows[1], dim=-1)
    return [row.to(device, dtype).requires_grad_() for row in rows]


def loss_job(
    loss: Callable[..., Tensor],
    leaves: Sequence[Tensor],
    *,
    flops: float | None = None,
    scalars: Sequence[Tensor] = (),
    rows_kept: bool = True,
) -> Job:
    """Forward and backward of `loss(*leaves, *scalars)`; the warm-up takes the first rows only.

    Args:
        loss: of the leaves.
        leaves: tensors with gradient, rows first.
        flops: of one forward and backward.
        scalars: further arguments with gradient, such as a learnt scale.
        rows_kept: the loss can be had of the first rows of every leaf.
    """
    value: list[Tensor] = []
    everything = [*leaves, *scalars]

    def run() -> None:
        for leaf in everything:
            leaf.grad = None
        found = loss(*everything)
        found.backward()
        value[:] = [found.detach()]

    def warm() -> None:
        small = [leaf.detach()[:SHOWN].clone().requires_grad_() for leaf in leaves]
        loss(*small, *[scalar.detach().clone().requires_grad_() for scalar in scalars]).backward()

    def output() -> Arrays:
        found: dict[str, np.ndarray] = {"loss": _plain(value[0])}
        for place, leaf in enumerate(everything):
            assert leaf.grad is not None, "the loss gives this argument no gradient"
            found[f"gradient {place}"] = _plain(leaf.grad[:SHOWN] if leaf.dim() else leaf.grad)
        return found

    return Job(run, output, warm if rows_kept else None, flops=flops)


def along_the_sphere(rows: Callable[[], Sequence[Tensor]], tolerance: float) -> Compare:
    """Equal values, and equal gradients once the part along each row is taken out of both.

    For peers that normalise rows themselves: of rows that have unit length already, that only projects the gradient.

    Args:
        rows: makes the leaves anew, on the CPU.
        tolerance: see `compare.same`.
    """
    equal = same(tolerance)

    def projected(output: Arrays, leaves: Sequence[Tensor]) -> Arrays:
        found = dict(output)
        for place, leaf in enumerate(leaves):
            gradient = torch.as_tensor(output[f"gradient {place}"])
            unit = leaf.detach()[: len(gradient)]
            found[f"gradient {place}"] = (gradient - (gradient * unit).sum(1, keepdim=True) * unit).numpy()
        return found

    def check(ours: Arrays, theirs: Arrays) -> Mapping[str, float]:
        leaves = rows()
        return equal(projected(ours, leaves), projected(theirs, leaves))

    return check


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
