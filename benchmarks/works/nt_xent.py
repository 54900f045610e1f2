"""NT-Xent, forward and backward."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.tensors import along_the_sphere, loss_job, unit_rows
from benchmarks.work import OURS, Bar, Case, Job, Options

TITLE = "NT-Xent, forward and backward"
UNIT = "pairs of views"
TEMPERATURE = 0.1


def ours(rows: int, width: int, options: Options) -> Job:
    """`counterpoint.losses.nt_xent`."""
    from counterpoint.losses import nt_xent

    return _job(lambda first, second: nt_xent(first, second, temperature=TEMPERATURE), rows, width, options)


def lightly(rows: int, width: int, options: Options) -> Job:
    """lightly's `NTXentLoss`; it normalises its rows, which have unit length already."""
    from lightly.loss import NTXentLoss

    return _job(NTXentLoss(temperature=TEMPERATURE), rows, width, options)


def metric_learning(rows: int, width: int, options: Options) -> Job:
    """pytorch-metric-learning's, as its documentation joins two views: with labels."""
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)

    def call(first: Tensor, second: Tensor) -> Tensor:
        labels = torch.arange(len(first), device=first.device).repeat(2)
        return loss(torch.cat([first, second]), labels)

    return _job(call, rows, width, options)


def _job(loss: object, rows: int, width: int, options: Options) -> Job:
    leaves = unit_rows((rows, width), (rows, width), device=options.device)
    # Three products of (2N)^2 d: the logits, once more backward, and the gradient; half of each, as it is symmetric.
    return loss_job(loss, leaves, flops=3 * 2 * (2 * rows) ** 2 * width / 2)  # type: ignore[arg-type]


def cases(options: Options) -> list[Case]:
    """The issue's size, and one that pytorch-metric-learning can do."""
    width, rows = 128, 64 if options.tiny else 4096
    small = 32 if options.tiny else 256
    peers = {"lightly": lightly, "pytorch-metric-learning": metric_learning}
    bars = [Bar("time", 0.25, peer=peer) for peer in peers] + [Bar("memory", 0.1, peer=peer) for peer in peers]
    tell = "The peers normalise their rows themselves; gradients are compared along the sphere."
    return [
        Case(
            name=f"2 x {count:,} views, d = {width}",
            sides={name: partial(make, count, width, options) for name, make in {OURS: ours, **peers}.items()},
            items=count,
            compare=along_the_sphere(partial(unit_rows, (count, width), (count, width), device="cpu"), 1e-3),
            bars=bars if count == rows else [],
            note=tell + ("" if count == rows else " A size at which pytorch-metric-learning runs on most machines."),
        )
        for count in (rows, small)
    ]
