"""FILIP's late interaction, forward and backward."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.compare import same
from benchmarks.tensors import loss_job, unit_rows
from benchmarks.work import OURS, Bar, Case, Job, Options

TITLE = "Late interaction (FILIP), forward and backward"
UNIT = "pairs"
TOKENS = (49, 32)
"""Of a picture (ViT-B/32 at 224 pixels) and of a caption."""
TEMPERATURE = 0.07


def ours(rows: int, width: int, options: Options) -> Job:
    """`counterpoint.losses.late_interaction`."""
    from counterpoint.losses import late_interaction

    return _job(lambda image, text: late_interaction(image, text, temperature=TEMPERATURE), rows, width, options)


def dense(image: Tensor, text: Tensor) -> Tensor:
    """All token similarities as one tensor."""
    scores = torch.einsum("ikd,jrd->ijkr", image, text)  # (N, N, n1, n2)
    own = torch.arange(len(image), device=image.device)
    of_image, of_text = scores.amax(3).mean(2), scores.amax(2).mean(2)  # (N, N) each
    return (cross_entropy(of_image / TEMPERATURE, own) + cross_entropy(of_text.T / TEMPERATURE, own)) / 2


def peer(rows: int, width: int, options: Options) -> Job:
    """A dense einsum."""
    return _job(dense, rows, width, options)


def _job(loss: object, rows: int, width: int, options: Options) -> Job:
    leaves = unit_rows(*[(rows, count, width) for count in TOKENS], device=options.device)
    # One product forward; backward only the largest entries matter, which a gather finds without another product.
    return loss_job(loss, leaves, flops=2 * rows**2 * TOKENS[0] * TOKENS[1] * width)  # type: ignore[arg-type]


def cases(options: Options) -> list[Case]:
    """The issue's size."""
    rows, width = (8, 16) if options.tiny else (256, 256)
    return [
        Case(
            name=f"B = {rows}, {TOKENS[0]} x {TOKENS[1]} tokens, d = {width}",
            sides={OURS: partial(ours, rows, width, options), "dense einsum": partial(peer, rows, width, options)},
            items=rows,
            compare=same(1e-3),
            bars=[Bar("time", 0.6), Bar("memory", 0.05)],
            note="Limit: the one product forward; the gradient flows through the largest entries alone.",
        )
    ]
