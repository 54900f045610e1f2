"""InfoNCE with hard negatives, and a guide that takes false negatives out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tensors import SHOWN, along_the_sphere
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options

TITLE = "InfoNCE with hard negatives and a false-negative filter, up to the gradient of the embeddings"
UNIT = "queries"
TEMPERATURE = 0.05
MINI_BATCH = 32
"""sentence-transformers' default."""


def _embeddings(rows: int, width: int, options: Options) -> tuple[list[Tensor], list[Tensor]]:
    """Queries, positives and hard negatives of the model (with gradient) and of the guide, unit rows."""
    generator = torch.Generator().manual_seed(0)

    def three(noise: float) -> list[Tensor]:
        query = torch.randn(rows, width, generator=generator)
        near = [query + scale * torch.randn(rows, width, generator=generator) for scale in (noise, 2 * noise)]
        return [nn.functional.normalize(part, dim=1).to(options.device) for part in (query, *near)]

    return [part.requires_grad_() for part in three(1.5)], three(1.0)


def ours(rows: int, width: int, options: Options, filtered: bool) -> Job:
    """`info_nce`, whose `negative_bias` is -inf where the guide finds a candidate nearer than the positive."""
    from counterpoint.losses import info_nce

    (query, positive, hard), (guide, guide_positive, guide_hard) = _embeddings(rows, width, options)

    def loss(parts: Sequence[Tensor], guides: Sequence[Tensor]) -> Tensor:
        bias = None
        if filtered:
            candidates = torch.cat([guides[1], guides[2]])
            own = (guides[0] * guides[1]).sum(1, keepdim=True)  # (N, 1)
            seen = guides[0] @ candidates.T  # (N, 2N)
            bias = torch.zeros_like(seen).masked_fill_(seen > own, float("-inf"))
        return info_nce(parts[0], parts[1], negatives=parts[2], negative_bias=bias, temperature=TEMPERATURE)

    return _job(loss, [query, positive, hard], [guide, guide_positive, guide_hard])


def guided(rows: int, width: int, options: Options) -> Job:
    """The loss of sentence-transformers' `CachedGISTEmbedLoss`, as its `forward` calls it after embedding.

    Both libraries get the same embeddings, and stop at their gradients: no encoder is run on either side. Anchors are
    contrasted with positives and hard negatives only, the setting that its documentation recommends for retrieval.
    """
    from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss

    class Maths(CachedGISTEmbedLoss):
        """The loss without its two encoders."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.temperature, self.mini_batch_size = TEMPERATURE, MINI_BATCH
            self.similarity_fct, self.cross_entropy_loss = nn.CosineSimilarity(dim=-1), nn.CrossEntropyLoss()
            self.margin_strategy, self.margin = "absolute", 0.0
            self.contrast_anchors = self.contrast_positives = self.gather_across_devices = False
            self.show_progress_bar = False

    maths = Maths()
    return _cached(
        lambda parts, guides: maths.calculate_loss_and_cache_gradients(parts, guides)[0], rows, width, options
    )


def ranking(rows: int, width: int, options: Options) -> Job:
    """`CachedMultipleNegativesRankingLoss`: the same without a guide."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    holder: Any = nn.Sequential(nn.Identity())  # asked only whether it is a static embedding
    maths = CachedMultipleNegativesRankingLoss(holder, scale=1 / TEMPERATURE, mini_batch_size=MINI_BATCH)
    return _cached(lambda parts, guides: maths.calculate_loss(parts, with_backward=True), rows, width, options)


def _cached(call: Any, rows: int, width: int, options: Options) -> Job:
    """The peers want every column as a list of mini-batches, and leave the gradients there."""
    parts, guides = _embeddings(rows, width, options)

    def lists(columns: Sequence[Tensor]) -> list[list[Tensor]]:
        return [[piece.detach().requires_grad_() for piece in column.split(MINI_BATCH)] for column in columns]

    def loss(columns: Sequence[Tensor], guide: Sequence[Tensor]) -> Tensor:
        pieces = lists(columns)
        value = call(pieces, [list(column.split(MINI_BATCH)) for column in guide])
        for column, made in zip(columns, pieces, strict=True):
            column.grad = torch.cat([piece.grad for piece in made if piece.grad is not None])
        return value

    return _job(loss, parts, guides, backward=False)


def _job(loss: Any, parts: list[Tensor], guides: list[Tensor], *, backward: bool = True) -> Job:
    value: list[float] = []

    def call(columns: list[Tensor], guide: list[Tensor]) -> None:
        for column in columns:
            column.grad = None
        found = loss(columns, guide)
        if backward:
            found.backward()
        value[:] = [float(found.detach())]

    def output() -> Arrays:
        gradients = {f"gradient {place}": part.grad[:SHOWN].cpu().numpy() for place, part in enumerate(parts)}  # type: ignore[index]
        return {"loss": value[0], **gradients}

    rows, width = parts[0].shape
    small = [part.detach()[:SHOWN].clone().requires_grad_() for part in parts]
    return Job(
        run=lambda: call(parts, guides),
        output=output,
        warm=lambda: call(small, [guide[:SHOWN] for guide in guides]),
        # Of N x 2N logits: forward, again backward, and the gradients of both sides.
        flops=4 * 2 * rows * 2 * rows * width,
    )


def cases(options: Options) -> list[Case]:
    """Batches as cached losses are made for."""
    rows, width = (64, 32) if options.tiny else (1024, 384)
    note = (
        "Embeddings are given and no encoder runs: measured is what the peer does between its two passes of the "
        "encoder, at its default mini-batches of 32, against our loss and its gradient. "
        "Gradients are compared along the sphere, as the peers take cosines."
    )
    found = []
    for filtered, peer, name in ((True, guided, "CachedGISTEmbedLoss"), (False, ranking, "CachedMNRL")):
        found.append(
            Case(
                name=f"N = {rows:,} queries, {'filtered' if filtered else 'no filter'}, d = {width}",
                sides={
                    OURS: partial(ours, rows, width, options, filtered),
                    f"sentence-transformers {name}": partial(peer, rows, width, options),
                },
                items=rows,
                compare=along_the_sphere(lambda: _embeddings(rows, width, Options(device="cpu"))[0], 1e-3),
                bars=[Bar("time", 0.7)],
                note=note,
            )
        )
    return found
