"""First-in-first-out memories of embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """The last `size` rows that were pushed, as buffers: saved and resumed with the model.

    The memory is a ring of fixed size with a count of the filled places, so it may grow, be full from the
    start, and take batches of any and of changing size; a batch larger than the queue leaves its last `size`
    rows. It knows nothing of processes: rows given to `push` are already those of all processes.

    Args:
        size: rows kept.
        dim: numbers a row.
        normalised_start: start full of Gaussian rows of unit length (MoCo, Contriever) instead of empty;
            drawn from torch's global generator.

    Attributes:
        storage: (size, dim) buffer, in ring order; places not yet filled are zero.
        pointer: 0-d int64 buffer, the place that the next row is written to.
        filled: 0-d int64 buffer, how many rows there are.

    Raises:
        ValueError: `size` or `dim` below 1; rows of another shape, or not finite, in `push`.
    """

    storage: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int, *, normalised_start: bool = False) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"a queue needs size >= 1 and dim >= 1, got size={size}, dim={dim}")
        self.size = size
        self.dim = dim
        self.normalised_start = normalised_start
        self.register_buffer("storage", torch.zeros(size, dim))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the start: empty, or full of new unit rows with `normalised_start`."""
        self.pointer.zero_()
        if self.normalised_start:
            self.storage.copy_(nn.functional.normalize(torch.randn_like(self.storage), dim=1))
            self.filled.fill_(self.size)
        else:
            self.storage.zero_()
            self.filled.zero_()

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Append (B, dim) rows, detached; the oldest leave."""
        if rows.dim() != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"rows must have shape (B, {self.dim}), got {tuple(rows.shape)}")
        finite = torch.isfinite(rows.detach()).all(dim=1)
        if not bool(finite.all()):
            raise ValueError(f"rows must be finite, but row {int((~finite).nonzero()[0])} holds NaN or infinity")
        rows = rows.detach()[-self.size :].to(self.storage)
        places = (self.pointer + torch.arange(len(rows), device=self.storage.device)) % self.size  # (B,)
        self.storage.index_copy_(0, places, rows)
        self.pointer.copy_((self.pointer + len(rows)) % self.size)
        self.filled.copy_((self.filled + len(rows)).clamp(max=self.size))

    def rows(self) -> Tensor:
        """(filled, dim) rows, oldest first, without gradient; a copy."""
        filled = int(self.filled)
        if filled < self.size:
            return self.storage[:filled].clone()
        return self.storage.roll(-int(self.pointer), dims=0)

    @property
    def full(self) -> bool:
        """True once `size` rows have been pushed (from the start with `normalised_start`)."""
        return int(self.filled) == self.size

    def __len__(self) -> int:
        """Rows held."""
        return int(self.filled)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"size={self.size}, dim={self.dim}, filled={int(self.filled)}"


class Queues(nn.Module):
    """One `Queue` for each key (language, layer, crop ...), all of one size.

    Args:
        keys: names; `queues[name]` is the queue.
        size: rows kept in each.
        dim: numbers a row.
        normalised_start: as in `Queue`.

    Raises:
        ValueError: a key twice, no key, or a key without a queue when asked for.
    """

    def __init__(self, keys: Iterable[str], size: int, dim: int, *, normalised_start: bool = False) -> None:
        super().__init__()
        self.keys = tuple(keys)
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise ValueError(f"keys must differ, and be at least one, got {list(self.keys)}")
        # A list, since module names may not hold dots.
        self.queues = nn.ModuleList(Queue(size, dim, normalised_start=normalised_start) for _ in self.keys)

    def __getitem__(self, key: str) -> Queue:
        if key not in self.keys:
            raise ValueError(f"no queue for {key!r}; there are queues for {sorted(self.keys)}")
        queue = self.queues[self.keys.index(key)]
        assert isinstance(queue, Queue)
        return queue

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def push(self, rows: Tensor, keys: Sequence[str]) -> None:
        """Append row i of (B, dim) to the queue of `keys[i]`."""
        if len(keys) != len(rows):
            raise ValueError(f"keys must name one queue a row: got {len(keys)} keys for {len(rows)} rows")
        for key in sorted(set(keys)):
            self[key].push(rows[[i for i, name in enumerate(keys) if name == key]])

    def reset(self) -> None:
        """Bring every queue back to its start."""
        for key in self:
            self[key].reset()
