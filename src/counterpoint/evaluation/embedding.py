"""Rows in, vectors out: the one place that runs `System.embed` for evaluation, tables and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoint.allocation import keep_freed_memory
from counterpoint.evaluation.ordering import Finished, Outlet, concatenate
from counterpoint.evaluation.sample_shapes import Shape, longest, sample_shape, without_lengths
from counterpoint.evaluation.samples import Failure, read_samples
from counterpoint.system import System

__all__ = ["DEFAULT_SPACE", "NothingEmbedded", "Skipped", "embed_all", "embed_rows", "inference", "to_device"]

DEFAULT_SPACE = "embedding"
"""Name of the space of a system whose `embed` returns a single tensor."""

_WINDOW = 2048
"""Rows that may be under way at once: so far the first and the last row of a group may lie apart."""


class _Size(NamedTuple):
    """What is computed at once where a vector must not depend on its neighbours: rows, or what is sequential."""

    rows: int
    tokens: int


# 1,500 texts of mixed length on a CPU: at 192 tokens 6 % are computed only to fill batches up, at 512 tokens 43 %; the
# matrix products reach 145 and 158 GFLOP/s of a core.
_ON_CPU, _ON_ACCELERATOR = _Size(rows=16, tokens=192), _Size(rows=64, tokens=8192)
_SORTED = 2**18
"""Tokens, frames or points that wait to be sorted by length: 2,048 texts of 128 tokens, 13 clouds of 20,000 points."""


class NothingEmbedded(ValueError):
    """No row gave a vector."""


class Skipped(NamedTuple):
    """A row that gave no vector, and why."""

    id: str
    reason: str


class _Pending(NamedTuple):
    position: int
    id: str
    sample: Mapping[str, Any]
    length: int | None  # None where nothing in the sample is sequential


def embed_rows(
    system: System,
    rows: Sequence[Mapping[str, Any]],
    *,
    batch: int = 64,
    device: str | torch.device | None = None,
    fast: bool = False,
    workers: int = 0,
    columns: Sequence[str] | None = None,
    skipped: list[Skipped] | None = None,
) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Vectors of rows, in their order, a batch at a time; memory does not grow with the number of rows.

    The system runs in evaluation mode (batch statistics frozen, dropout off) and gets its own mode back.

    Args:
        system: anything with `preprocess`, `collate` and `embed`.
        rows: `Rows`, or a sequence of row dicts.
        batch: largest number of rows in a yielded batch. With `fast` also the number computed at once.
        device: where to compute; None leaves the system where it is.
        fast: compute in bfloat16 where autocast allows it, and pad texts to their neighbours' length, sorted by length
            within at most 2,048 rows; worth it on an accelerator or a processor with bfloat16 units. Without it a
            row's vector depends on that row alone, not on its neighbours, the batch size or the order: only rows of
            equal sample shape are computed together (a text is padded to its own length and to nobody else's), in
            batches of a size that follows from the shape, the last one filled up. Measured on a CPU over batch sizes
            1 to 32 and two orders, 500 sentences (MiniLM) and 500 pictures (ResNet-18): largest deviation 0. Batches
            that are padded and cut as they come deviate by 1e-6, which gave other top-10 lists in 12 of 14
            comparisons; bfloat16 leaves a cosine of 0.9999 on texts. Times of both stand in docs/benchmarks.md.
        workers: processes that decode; 0 decodes here. Never changes the result.
        columns: show the system only these columns, e.g. ("text",) for the text side of an image-text model.
        skipped: gets a `Skipped` for every row that gave no vector (unreadable, or its vector was not
            finite).

    Yields:
        ids of up to `batch` rows and {space: (B, D) float32 on the CPU}. A single unnamed space is
        called "embedding". Token spaces are (B, N, D), with zero rows where a row has fewer tokens. A batch
        also ends where the spaces change (a row without text gives no text vector).

    Raises:
        ValueError: `batch` below 1, or rows lack a column that the system reads.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}: pass how many rows to return at once")
    if device is not None:
        system.to(device)
    if system.device.type == "cpu":
        keep_freed_memory()
    skipped = skipped if skipped is not None else []
    outlet = Outlet(batch)
    groups = _Groups(system, batch if fast else None, outlet, skipped)
    samples = read_samples(system, rows, columns=columns, workers=workers)
    for position, (identity, sample) in enumerate(samples):
        if isinstance(sample, Failure):
            skipped.append(Skipped(identity, sample.reason))
            outlet.put(position, None)
        else:
            groups.add(position, identity, sample)
        if position - outlet.position >= _WINDOW:
            groups.compute_oldest()  # rare shapes must not hold back everything behind them
        yield from outlet.batches()
    groups.flush()
    yield from outlet.batches(last=True)


class _Groups:
    """Collects samples that may be computed together, and computes them when there are enough.

    Args:
        system: computes.
        fast: None computes only equal shapes together, in batches of one size a shape, so that a vector does not depend
            on what is beside it. Else the number of samples that are computed at once, sorted and padded to each
            other's length, in bfloat16.
        outlet: gets the rows.
        skipped: gets those whose vector is not finite.
    """

    def __init__(self, system: System, fast: int | None, outlet: Outlet, skipped: list[Skipped]) -> None:
        self.system, self.fast = system, fast
        self.size = _ON_CPU if system.device.type == "cpu" else _ON_ACCELERATOR
        self.outlet, self.skipped = outlet, skipped
        self._groups: dict[Shape, list[_Pending]] = {}  # the group whose first sample came first stands first

    def add(self, position: int, identity: str, sample: Mapping[str, Any]) -> None:
        """One more sample; computes its group when that is full."""
        shape = sample_shape(self.system, sample)
        length = longest(shape)
        if self.fast is not None:
            shape = without_lengths(shape)
        group = self._groups.setdefault(shape, [])
        group.append(_Pending(position, identity, sample, length))
        if len(group) >= self._rows(length):
            self._compute(shape)

    def compute_oldest(self) -> None:
        """Compute the group of the sample that has waited longest, as it is."""
        if self._groups:
            self._compute(next(iter(self._groups)))

    def flush(self) -> None:
        """Compute all groups as they are."""
        while self._groups:
            self.compute_oldest()

    def _rows(self, length: int | None) -> int:
        """How many samples make a group, by the length of the last one."""
        if length is None:
            return self.fast or self.size.rows
        if self.fast is not None:
            return max(self.fast, min(_WINDOW, _SORTED // max(1, length)))
        return max(1, self.size.tokens // max(1, length))

    def _compute(self, shape: Shape) -> None:
        group = self._groups.pop(shape)
        if self.fast is None:
            self._finish(group, self._rows(group[0].length))
            return
        group.sort(key=lambda pending: pending.length or 0)
        with torch.autocast(self.system.device.type, torch.bfloat16):  # one for all: it keeps the cast weights
            for start in range(0, len(group), self.fast):
                part = group[start : start + self.fast]
                self._finish(part, len(part))

    def _finish(self, group: list[_Pending], rows: int) -> None:
        vectors = _embed_samples(self.system, [pending.sample for pending in group], rows)
        for pending, found in zip(group, vectors, strict=True):
            broken = [space for space, vector in found.items() if not bool(vector.isfinite().all())]
            if broken:
                self.skipped.append(Skipped(pending.id, f"its vector in space {broken[0]!r} is not finite"))
            self.outlet.put(pending.position, None if broken else Finished(pending.id, found))


def embed_all(
    system: System,
    rows: Sequence[Mapping[str, Any]],
    *,
    batch: int = 64,
    device: str | torch.device | None = None,
    fast: bool = False,
    workers: int = 0,
    columns: Sequence[str] | None = None,
    skipped: list[Skipped] | None = None,
) -> tuple[list[str], dict[str, Tensor]]:
    """The vectors of all rows at once: (ids, {space: (N, D)}). Arguments as of `embed_rows`.

    Raises:
        NothingEmbedded: no row could be embedded.
        ValueError: rows differ in the spaces they have.
    """
    skipped = skipped if skipped is not None else []
    ids: list[str] = []
    parts: dict[str, list[Tensor]] = {}
    for found, spaces in embed_rows(
        system,
        rows,
        batch=batch,
        device=device,
        fast=fast,
        workers=workers,
        columns=columns,
        skipped=skipped,
    ):
        if parts and set(parts) != set(spaces):
            raise ValueError(
                f"rows differ in what they can be embedded as: row {found[0]!r} gives {sorted(spaces)}, rows "
                f"before it {sorted(parts)}; pass columns= with the columns that all rows have"
            )
        ids += found
        for space, vectors in spaces.items():
            parts.setdefault(space, []).append(vectors)
    if not ids:
        reasons = "; ".join(f"{row.id}: {row.reason}" for row in skipped[:3])
        raise NothingEmbedded(f"none of the {len(rows)} rows could be embedded" + (f" ({reasons})" if reasons else ""))
    return ids, {space: concatenate(found) for space, found in parts.items()}


def _embed_samples(system: System, samples: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Tensor]]:
    """Vectors of each sample, computed as a batch of `size` rows; the last sample fills it up."""
    count = len(samples)
    samples = [*samples, *[samples[-1]] * (size - count)]
    with inference(system):
        found = system.embed(to_device(system.collate(samples), system.device))
    spaces = {DEFAULT_SPACE: found} if isinstance(found, Tensor) else dict(found)
    for space, vectors in spaces.items():
        if len(vectors) != len(samples):
            raise ValueError(
                f"{type(system).__name__}.embed gave {len(vectors)} rows in space {space!r} for {len(samples)} samples"
            )
    spaces = {space: vectors.detach().float().cpu() for space, vectors in spaces.items()}
    return [{space: vectors[row].clone() for space, vectors in spaces.items()} for row in range(count)]


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch, nested mappings included."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    return batch


@contextmanager
def inference(system: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets its own mode back afterwards."""
    modes = [(module, module.training) for module in system.modules()]
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        system.eval()
        with torch.no_grad(), cudnn if torch.cuda.is_available() else nullcontext():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
