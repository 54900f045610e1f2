"""CLIP's loss, forward and backward."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.compare import same
from benchmarks.tensors import loss_job, unit_rows
from benchmarks.work import OURS, Bar, Case, Job, Options

TITLE = "CLIP loss, forward and backward"
UNIT = "rows"
SCALE = 1 / 0.07


def ours(rows: int, width: int, options: Options, dtype: torch.dtype) -> Job:
    """`counterpoint.losses.clip_loss`."""
    from counterpoint.losses import clip_loss

    return _job(lambda image, text, scale: clip_loss(image, text, logit_scale=scale), rows, width, options, dtype)


def peer(rows: int, width: int, options: Options, dtype: torch.dtype) -> Job:
    """open_clip's `ClipLoss`."""
    from open_clip.loss import ClipLoss

    return _job(ClipLoss(), rows, width, options, dtype)


def _job(loss: object, rows: int, width: int, options: Options, dtype: torch.dtype) -> Job:
    leaves = unit_rows((rows, width), (rows, width), device=options.device, dtype=dtype)
    scale: Tensor = torch.tensor(SCALE, device=options.device, requires_grad=True)
    # Four products: the logits, once more backward, and the gradients of both sides.
    return loss_job(loss, leaves, scalars=[scale], flops=4 * 2 * rows**2 * width)  # type: ignore[arg-type]


def cases(options: Options) -> list[Case]:
    """The issue's two sizes; on a GPU both in float32 and bfloat16."""
    width, (rows, many) = 512, (256, 512) if options.tiny else (16_384, 65_536)
    found = []
    for dtype in (torch.float32, torch.bfloat16) if options.device == "cuda" else (torch.float32,):
        name, tolerance = str(dtype).removeprefix("torch."), 1e-3 if dtype == torch.float32 else 5e-2
        make = partial(ours, width=width, options=options, dtype=dtype)
        on_gpu = options.device == "cuda"
        both = {OURS: partial(make, rows), "open_clip": partial(peer, rows, width, options, dtype)}
        found.append(
            Case(
                name=f"N = {rows:,}, d = {width}, {name}",
                sides=both,
                items=rows,
                compare=same(tolerance),
                bars=[Bar("time", 0.55), Bar("memory", 0.15), Bar("limit", at_least=0.9)] if not on_gpu else [],
                dtype=name,
                note="Limit: the four matrix products of a loss that recomputes its logits backward.",
            )
        )
        # 1.2 times the time of the products is 0.83 of the limit.
        gpu_bars = [Bar("limit", at_least=1 / 1.2)] if name == "bfloat16" else []
        found.append(
            Case(
                name=f"N = {many:,}, d = {width}, {name}",
                sides={OURS: partial(make, many)},
                items=many,
                bars=gpu_bars if on_gpu else [Bar("megabytes", 2048)],
                dtype=name,
                note="The peer would need some 70 GB; it is not run.",
                timeout=1800,
                most_rounds=2,
            )
        )
    return found
