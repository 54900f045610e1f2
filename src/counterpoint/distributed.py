"""Everything that crosses processes; the only module that talks to `torch.distributed`.

With one process every function here is the identity, so callers never ask how many there are.

Convention for gradients. Every process computes the same loss from the same gathered rows, so each already holds
the whole gradient of those rows. `gather` hands a process the part of its own rows, times the number of processes;
averaging the parameter gradients afterwards (`average_gradients`) then gives exactly the one-process gradient,
for unequal numbers of rows as well. The trainer, which shares the tiles of large losses out (`Members`), takes the
sum over the processes of the gradients of a process's own rows instead (`own_gradients`), which is the same where
all hold the whole gradient.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "Members",
    "across_processes",
    "average_gradients",
    "barrier",
    "broadcast_module",
    "gather",
    "gather_objects",
    "own_gradients",
    "process_count",
    "process_index",
    "reduce_sum",
    "start",
    "sum_over_processes",
]

Loss = TypeVar("Loss", bound=Callable[..., Tensor])
_Tile = TypeVar("_Tile")


def start(backend: str | None = None) -> None:
    """Join the process group that `torchrun` (or `fabric run`) describes in the environment; else do nothing."""
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return
    dist.init_process_group(backend or ("nccl" if torch.cuda.is_available() else "gloo"))


def process_count() -> int:
    """Number of processes that train together (1 without a process group)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        dist.barrier()


def reduce_sum(value: Tensor) -> Tensor:
    """Sum of `value` over all processes, same shape; not differentiable."""
    if process_count() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def gather_objects(value: Any) -> list[Any]:
    """One JSON-like value of each process, in process order."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values


def broadcast_module(module: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if process_count() == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)


_LARGEST_DIMENSIONS = 8


def _row_counts(rows: Tensor) -> list[int]:
    """Rows held by each process, in process order.

    Raises:
        ValueError: on every process, when one holds rows of another shape: their bytes would be mixed up silently.
    """
    if not 1 <= rows.dim() <= _LARGEST_DIMENSIONS:
        raise ValueError(f"rows must have 1 to {_LARGEST_DIMENSIONS} dimensions, got {tuple(rows.shape)}")
    described = [len(rows), rows.element_size(), rows.dim(), *rows.shape[1:]]
    table = torch.zeros(process_count(), _LARGEST_DIMENSIONS + 2, dtype=torch.int64, device=rows.device)
    table[process_index(), : len(described)] = torch.tensor(described)
    dist.all_reduce(table)
    if (table[:, 1:] != table[0, 1:]).any():
        found = [(count, *shape[: dimensions - 1]) for count, _, dimensions, *shape in table.tolist()]
        raise ValueError(f"rows must have one shape after the first dimension and one dtype; by process: {found}")
    return table[:, 0].tolist()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.first = sum(counts[: process_index()])
        ctx.rows = len(rows)
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        pieces = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient[ctx.first : ctx.first + ctx.rows] * process_count(), None


def _gather_tensor(rows: Tensor) -> Tensor:
    counts = _row_counts(rows)
    if rows.dtype == torch.bool:
        return _Gather.apply(rows.to(torch.uint8), counts).bool()
    return _Gather.apply(rows, counts)


def gather(rows: Any) -> Any:
    """Rows of all processes, in process order: a tensor (n, ...) -> (sum of n, ...), or a mapping of such.

    The numbers of rows may differ between processes. Differentiable (see the module's docstring for the scale of the
    gradient).

    Raises:
        ValueError: the trailing dimensions or the dtype differ between processes.
    """
    if process_count() == 1:
        return rows
    if isinstance(rows, Mapping):
        return {name: _gather_tensor(rows[name]) for name in sorted(rows)}
    return _gather_tensor(rows)


def own_gradients(gradients: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The part of a process's own rows of the sum over the processes of gradients of gathered rows.

    Args:
        gradients: name -> (sum of n, ...), the same names and shapes on every process.
        rows: that this process handed to `gather`.

    Returns:
        name -> (n, ...).
    """
    counts = torch.zeros(process_count(), dtype=torch.int64)
    counts[process_index()] = rows
    device = next(iter(gradients.values())).device if gradients else counts.device
    counts = reduce_sum(counts.to(device)).cpu()
    own = {}
    for name in sorted(gradients):
        gradient = gradients[name].contiguous()
        padded = gradient.new_zeros((process_count(), int(counts.max()), *gradient.shape[1:]))
        for place, piece in enumerate(gradient.split(counts.tolist())):
            padded[place, : len(piece)] = piece
        found = torch.empty_like(padded[0])
        dist.reduce_scatter_single(found, padded.flatten(0, 1))
        own[name] = found[:rows]
    return own


class Members:
    """The processes as a party that shares out the tiles of large losses (see `losses.sharing`)."""

    def __init__(self, device: torch.device) -> None:
        self.members = process_count()
        self._device = device

    def mine(self, tiles: Iterable[_Tile]) -> Iterator[_Tile]:
        """Every tile belongs to one process, in turn."""
        return itertools.islice(tiles, process_index(), None, process_count())

    def summed(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Sum over the processes.

        Raises:
            RuntimeError: on every process when `compute` fails on one.
        """
        return tuple(reduce_sum(part) for part in self._computed(compute))

    def logsumexp(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Logarithm of the sum over the processes of the exponentials; -inf where all are.

        Raises:
            RuntimeError: on every process when `compute` fails on one.
        """
        found = []
        for part in self._computed(compute):
            peak = part.clone()
            dist.all_reduce(peak, op=dist.ReduceOp.MAX)
            level = peak.masked_fill(peak == float("-inf"), 0.0)
            found.append(reduce_sum(torch.exp(part - level)).log() + level)
        return tuple(found)

    def _computed(self, compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What this process computes; nobody is left waiting for one that failed."""
        failure: RuntimeError | None = None
        parts: tuple[Tensor, ...] = ()
        try:
            parts = compute()
        except RuntimeError as error:
            failure = error
        failed = reduce_sum(torch.tensor(float(failure is not None), device=self._device))
        if failure is not None:
            raise failure
        if failed > 0:
            raise RuntimeError("another process failed in a loss, perhaps out of memory")
        return parts


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes, once, after backward.

    A parameter without a gradient on some process counts as zero there, unless it has none anywhere. Flattened into
    one message per dtype.
    """
    if process_count() == 1:
        return
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not parameters:
        return
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    present = reduce_sum(present)
    wanted = [p for p, count in zip(parameters, present.tolist(), strict=True) if count > 0]
    for dtype in sorted({p.dtype for p in wanted}, key=str):
        group = [p for p in wanted if p.dtype == dtype]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= process_count()
        for parameter, piece in zip(group, flat.split([p.numel() for p in group]), strict=True):
            # In the parameter's own memory order: fused optimisers go through both as they lie.
            parameter.grad = torch.empty_like(parameter, requires_grad=False).copy_(piece.view_as(parameter))


def across_processes(loss: Loss, *, rows: Sequence[str]) -> Loss:
    """The same loss over the rows of all processes, for users who bring their own training loop.

    Args:
        loss: any function of tensors, e.g. `counterpoint.losses.nt_xent`.
        rows: names of the arguments that hold one row an example; they are gathered, everything else passes as it is.

    Returns:
        A function with the signature of `loss`. Its value is equal on all processes; after averaging gradients over
        processes (as DistributedDataParallel does) it has the gradient of one process holding all rows.

    Raises:
        ValueError: `rows` names something that is no argument of `loss`.
    """
    signature = inspect.signature(loss)
    unknown = [name for name in rows if name not in signature.parameters]
    if unknown:
        raise ValueError(f"rows names {unknown}, but the loss takes {list(signature.parameters)}")

    @functools.wraps(loss)
    def global_loss(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        for name in rows:
            if bound.arguments.get(name) is not None:
                bound.arguments[name] = gather(bound.arguments[name])
        return loss(*bound.args, **bound.kwargs)

    return global_loss  # type: ignore[return-value]


class _SumOverProcesses(torch.autograd.Function):
    """All-reduced sum whose backward sums too: what a statistic shared by all processes needs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return reduce_sum(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return reduce_sum(gradients[0].contiguous())


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of `value` over all processes, same shape, whose backward sums too: for statistics shared by all."""
    return value if process_count() == 1 else _SumOverProcesses.apply(value)
