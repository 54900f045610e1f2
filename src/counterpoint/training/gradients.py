"""Gradients of one optimiser step: encode, gather, loss, backward, whole or in micro-batches.

For systems whose rows meet (`couples`) the loss sees the rows of all processes and a batch is cut by gradient caching.
For the others every piece has its own loss, and counts are summed over pieces and processes before dividing.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from counterpoint.distributed import (
    Members,
    gather,
    gather_objects,
    own_gradients,
    process_count,
    process_index,
    reduce_sum,
)
from counterpoint.losses.sharing import using
from counterpoint.sharded import is_shared
from counterpoint.system import System, Term
from counterpoint.training.agreement import OutOfMemoryError, together
from counterpoint.training.caching import (
    CachedFeatures,
    batch_rows,
    cut,
    cut_alike,
    keeping_batch_norm,
    refusing_batch_norm,
    without_private_keys,
)
from counterpoint.training.randomness import DrawWatch, seed_everything
from counterpoint.training.results import StepResult, averaged, check_features, detached, first_rows, summed
from counterpoint.training.terms import Combined, as_terms, combine, total_counts, uneven_counts

__all__ = ["Gradients"]

Batch = dict[str, Any]
Features = dict[str, Tensor]


def _own_gradients(leaves: Features, local: Features) -> Features:
    """Gradients of this process's rows; those of cached features are also put where their second pass finds them."""
    reached = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    if not reached:
        return {}
    own = own_gradients(reached, len(local[next(iter(reached))]))
    own = {name: gradient for name, gradient in own.items() if local[name].requires_grad}
    for name, gradient in own.items():
        if local[name].is_leaf:
            local[name].grad = gradient
    return own


class Gradients:
    """Computes the gradients of a step.

    Where weights are shared out, every process calls each module equally often, forwards and backwards: all of them
    cut their rows into the same number of pieces, and a piece without rows has a gradient of zero.

    Args:
        system: in training mode.
        encode, loss: the functions of the stage.
        fabric: precision and backward.
        micro_batch: rows a process encodes at once; None for all.

    Attributes:
        micro_batch: halved whenever memory runs out.
        draws: whether random numbers are drawn for the rows of this process alone.
    """

    def __init__(
        self,
        system: System,
        encode: Callable[[Batch], Features],
        loss: Callable[[Features], Mapping[str, Tensor | Term]],
        fabric: Fabric,
        micro_batch: int | None,
    ) -> None:
        self.system, self.fabric, self.micro_batch = system, fabric, micro_batch
        self.draws = DrawWatch(fabric.device)
        self._encode, self._loss = encode, loss
        self._shared = any(is_shared(parameter) for parameter in system.parameters())
        # Features of uncoupled pieces are only kept for those who look at them.
        self._all_even: bool | None = None  # no term has a count of its own; known after the first counting pass
        self._keeps = type(system).after_step is not System.after_step or type(system).pair is not System.pair

    def __call__(self, batches: list[Batch], *seed: int | str) -> StepResult:
        """Fill `.grad` from the batches of one step (not yet averaged over processes).

        Args:
            batches: one, or as many as are accumulated.
            seed: position of the step; every random number of the step comes from it.

        Raises:
            RuntimeError: out of memory with one row at a time.
            ValueError: a batch that cannot be cut, or a BatchNorm that forbids it.
        """
        compute = self._coupled_batches if type(self.system).couples else self._uncoupled
        while True:
            self._clear()
            try:
                return compute(batches, seed)
            except OutOfMemoryError as failure:
                cause = failure.__cause__
            self._halve(batches, cause)

    def _clear(self) -> None:
        for parameter in self.system.parameters():
            parameter.grad = None

    def _halve(self, batches: list[Batch], cause: BaseException | None) -> None:
        """Half the piece, the same on every process, or a clear end."""
        self._clear()
        largest = max(gather_objects(max(batch_rows(batch) for batch in batches)))
        current = min(self.micro_batch or largest, largest)
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        if current <= 1:
            raise RuntimeError(
                "out of memory even with micro_batch=1, one row at a time: use a smaller encoder or smaller inputs, "
                "precision=bf16-mixed, or a device with more memory"
            ) from cause
        self.micro_batch = max(current // 2, 1)
        warnings.warn(
            f"out of memory with {current} rows at once: going on with micro_batch={self.micro_batch}",
            stacklevel=4,
        )

    def _together(self) -> contextlib.AbstractContextManager[None]:
        return together(self.fabric.device, shared=self._shared, micro_batch=self.micro_batch)

    def _pieces(self, batch: Batch) -> list[Batch]:
        batch = without_private_keys(batch)
        if self._shared and self.micro_batch is not None:
            count = max(1, *gather_objects(math.ceil(batch_rows(batch) / self.micro_batch)))
            return cut_alike(batch, count) if count > 1 else [batch]
        if self.micro_batch is None or batch_rows(batch) <= self.micro_batch:
            return [batch]
        return cut(batch, self.micro_batch)

    def _guarded(self, is_cut: bool) -> contextlib.AbstractContextManager[None]:
        if not is_cut:
            return contextlib.nullcontext()
        return refusing_batch_norm(self.system, self.micro_batch or 0)

    def _backward(self, loss: Tensor) -> None:
        if loss.requires_grad:  # a stage may warm up without a gradient, a queue for one
            self.fabric.backward(loss)

    # Systems whose rows meet.

    def _coupled_batches(self, batches: list[Batch], seed: tuple[int | str, ...]) -> StepResult:
        return averaged([self._coupled(batch, (*seed, i), 1 / len(batches)) for i, batch in enumerate(batches)])

    def _coupled(self, batch: Batch, seed: tuple[int | str, ...], weight: float) -> StepResult:
        pieces = self._pieces(batch)
        cache: CachedFeatures | None = None
        seed_everything(*seed, "process", process_index())
        with self._together(), self._guarded(len(pieces) > 1), self.draws.watching():
            if len(pieces) > 1:
                cache = CachedFeatures(self._encode, pieces, self.fabric.autocast, self.fabric.device)
                local = cache.features
            else:
                with self.fabric.autocast():
                    local = self._encode(pieces[0])
            check_features(local, self.system)
        features, leaves = self._meeting(local)
        seed_everything(*seed, "loss")  # the same everywhere: every process computes the same loss
        with self._together():
            with self.fabric.autocast(), self._sharing():
                combined = combine(as_terms(self._loss(features), self.system, first_rows(features)))
            self._backward(combined.loss if weight == 1 else combined.loss * weight)
        own = _own_gradients(leaves, local)
        with self._together():
            if cache is not None:
                cache.replay()
            elif own:
                torch.autograd.backward([local[name] for name in own], list(own.values()))
        return StepResult(
            loss=combined.loss.detach(),
            parts=combined.parts,
            guess=combined.guess,
            guessed=combined.guessed,
            features=detached(features),
            local=detached(local),
            rows=batch_rows(batch),
        )

    def _meeting(self, local: Features) -> tuple[Features, Features]:
        """Features of all processes, and those of them that are leaves, whose gradient has to go back to its rows.

        With one process the graph goes on instead, and there are no leaves.
        """
        if process_count() == 1:
            return dict(local), {}
        with torch.no_grad():
            features = gather(local)
        # Cached features do not know which of them have a gradient, and some processes may have cached theirs.
        names = sorted(features)
        wanted = reduce_sum(
            torch.tensor([float(local[name].requires_grad) for name in names], device=self.fabric.device)
        )
        leaves = {
            name: features[name].requires_grad_() for name, count in zip(names, wanted.tolist(), strict=True) if count
        }
        return features, leaves

    def _sharing(self) -> contextlib.AbstractContextManager[None]:
        """Large losses share their tiles out among the processes."""
        return using(Members(self.fabric.device)) if process_count() > 1 else contextlib.nullcontext()

    # Systems whose rows never meet.

    def _uncoupled(self, batches: list[Batch], seed: tuple[int | str, ...]) -> StepResult:
        pieces = [piece for batch in batches for piece in self._pieces(batch)]
        rows = [batch_rows(piece) for piece in pieces]
        shares: list[Combined] = []
        kept: list[Features] = []
        first: tuple[dict[str, Term], Features] | None = None
        with self._together(), self._guarded(len(pieces) > len(batches)):
            if len(pieces) > 1:
                counts = self._count(pieces, seed)
            seed_everything(*seed, "process", process_index())
            if len(pieces) == 1:
                first = self._piece(pieces[0])
                counts = uneven_counts(first[0])
        totals = total_counts({**counts, " rows": float(sum(rows))}, self.fabric.device)
        with self._together():
            for piece, size in zip(pieces, rows, strict=True):
                terms, features = first or self._piece(piece)
                shares.append(self._piece_backward(terms, totals, size))
                kept.append(features if self._keeps or len(pieces) == 1 else {})
                del terms
        return summed(shares, kept, sum(rows))

    def _piece(self, piece: Batch) -> tuple[dict[str, Term], Features]:
        with self.draws.watching(), self.fabric.autocast():
            features = self._encode(piece)
            check_features(features, self.system)
            terms = as_terms(self._loss(features), self.system, first_rows(features))
        return terms, detached(features)

    def _count(self, pieces: list[Batch], seed: tuple[int | str, ...]) -> dict[str, Tensor | float]:
        """Counts of this process's uneven terms, from a pass without gradients that draws the same random numbers."""
        counts: dict[str, Tensor | float] = {}
        if self._all_even:
            return counts
        seed_everything(*seed, "process", process_index())
        with torch.no_grad(), keeping_batch_norm(self.system):
            for piece in pieces:
                terms, _ = self._piece(piece)
                found = uneven_counts(terms)
                self._all_even = not found
                if not found:
                    return {}
                counts = {name: counts.get(name, 0.0) + count for name, count in found.items()}
        return counts

    def _piece_backward(self, terms: dict[str, Term], totals: dict[str, Tensor], rows: int) -> Combined:
        if rows == 0:  # every row of this process's share was unusable: it counts as nothing
            nothing = totals[" rows"].new_zeros(())
            if self._shared and float(totals[" rows"]) > 0:  # else no process has a row, and none goes backwards
                self._backward_nothing(terms)
            return Combined(nothing, dict.fromkeys(terms, nothing), None, None)
        share = totals[" rows"] / rows
        combined = combine(terms, {name: totals.get(name, share) for name in terms})
        self._backward(combined.loss * process_count())  # averaging over the processes divides again
        return Combined(combined.loss.detach(), combined.parts, combined.guess, combined.guessed)

    def _backward_nothing(self, terms: dict[str, Term]) -> None:
        """Backward of a gradient of zero, since the other processes wait for this one in shared modules."""
        roots = [term.total for term in terms.values() if term.total.requires_grad]
        if roots:
            torch.autograd.backward(roots, [torch.zeros_like(root) for root in roots])
