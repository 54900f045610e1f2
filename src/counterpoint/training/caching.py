"""Gradient caching: a batch that does not fit is encoded in pieces, with the gradient of the whole batch.

Gao et al. 2021 (arXiv 2101.06983, section 3): encode all pieces without a graph, take the gradient of the loss at the
collected features, then encode each piece again with a graph and push its slice of that gradient through. Both passes
draw the same random numbers, so dropout agrees. Works for any loss of features, rows meeting in any way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CachedFeatures",
    "batch_rows",
    "cut",
    "cut_alike",
    "keeping_batch_norm",
    "refusing_batch_norm",
    "without_private_keys",
]

Batch = dict[str, Any]
Features = dict[str, Tensor]
Encode = Callable[[Batch], Features]


def batch_rows(batch: Mapping[str, Any]) -> int:
    """Rows of a batch: the length of `_ids`, else that of the first tensor found.

    Raises:
        ValueError: no tensor and no list inside.
    """
    if "_ids" in batch:
        return len(batch["_ids"])
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim() > 0:
            return len(value)
        if isinstance(value, Mapping):
            return batch_rows(value)
    for value in batch.values():
        if isinstance(value, list | tuple):
            return len(value)
    raise ValueError(f"the batch holds no tensor and no list: {sorted(batch)}")


def without_private_keys(batch: Mapping[str, Any]) -> Batch:
    """The batch without the loader's own entries (`_ids`, `_position`)."""
    return {name: value for name, value in batch.items() if not name.startswith("_")}


def cut(batch: Batch, size: int) -> list[Batch]:
    """Pieces of at most `size` rows, cut along the first dimension of everything inside.

    Args:
        batch: tensors (B, ...), lists of B values, mappings and sequences of such, and constants (numbers, text,
            None, tensors without dimensions), which every piece keeps.
        size: rows of a piece, at least 1.

    Raises:
        ValueError: `size` below 1, or something inside has another number of rows; names it.
    """
    if size < 1:
        raise ValueError(f"micro_batch must be at least 1, got {size}")
    rows = batch_rows(batch)
    return [_slice(batch, start, min(start + size, rows), rows, "batch") for start in range(0, rows, size)]


def cut_alike(batch: Batch, count: int) -> list[Batch]:
    """`count` pieces whose rows differ by one at most; without rows where there are fewer rows than pieces."""
    rows = batch_rows(batch)
    bounds = [rows * number // count for number in range(count + 1)]
    return [_slice(batch, start, stop, rows, "batch") for start, stop in zip(bounds, bounds[1:], strict=False)]


def _slice(value: Any, start: int, stop: int, rows: int, where: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _slice(item, start, stop, rows, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return value
        _check_rows(len(value), rows, where)
        return value[start:stop]
    if isinstance(value, list | tuple):
        # A list is either one value a row, or (what collating tuples gives) several things with all rows each.
        if value and all(isinstance(item, Tensor | Mapping | list | tuple) and _rows(item) == rows for item in value):
            return [_slice(item, start, stop, rows, f"{where}[{i}]") for i, item in enumerate(value)]
        _check_rows(len(value), rows, where)
        return value[start:stop]
    return value


def _rows(value: Any) -> int | None:
    if isinstance(value, Mapping):
        return next((_rows(item) for item in value.values()), None)
    if isinstance(value, Tensor):
        return len(value) if value.dim() > 0 else None
    return len(value) if isinstance(value, list | tuple) else None


def _check_rows(found: int, rows: int, where: str) -> None:
    if found != rows:
        raise ValueError(
            f"{where} has {found} rows, the batch {rows}: collate() must give every entry one value a row so that "
            "the batch can be cut"
        )


@contextlib.contextmanager
def refusing_batch_norm(module: nn.Module, micro_batch: int) -> Iterator[None]:
    """Inside, a BatchNorm in training mode that is reached raises: pieces of a batch have other statistics.

    Raises:
        ValueError: names the layer and what to do.
    """

    def refuse(name: str, layer: nn.Module) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if layer.training:
                raise ValueError(
                    f"micro_batch={micro_batch} cannot be used: {name} ({type(layer).__name__}) normalises over the "
                    "batch, and pieces of it would give another result. Leave micro_batch out, use an encoder with "
                    "GroupNorm or LayerNorm, or keep that layer in eval mode"
                )

        return hook

    handles = [layer.register_forward_pre_hook(refuse(name, layer)) for name, layer in _batch_norms(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _batch_norms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(n, layer) for n, layer in module.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@contextlib.contextmanager
def keeping_batch_norm(module: nn.Module) -> Iterator[None]:
    """Inside, running statistics of BatchNorm may change; afterwards they are what they were."""
    buffers = [buffer for _, layer in _batch_norms(module) for buffer in layer.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


class CachedFeatures:
    """Features of a batch that was encoded in pieces, and the second pass that gives their gradients to the weights.

    Args:
        encode: batch -> features, no side effects: it runs twice on every piece.
        pieces: of one batch, in order.
        context: makes the autocast context of one call.
        device: whose random state is replayed beside the CPU's.

    Attributes:
        features: name -> (B, ...) leaf tensors; after backward their `.grad` is what `replay` pushes on.
    """

    def __init__(
        self,
        encode: Encode,
        pieces: Sequence[Batch],
        context: Callable[[], contextlib.AbstractContextManager[Any]],
        device: torch.device,
    ) -> None:
        self._encode, self._pieces, self._context, self._device = encode, pieces, context, device
        self._states: list[tuple[Tensor, Tensor | None]] = []
        parts: list[Features] = []
        with torch.no_grad():
            for piece in pieces:
                self._states.append(_random_state(device))
                with context():
                    parts.append(encode(piece))
        self._rows = [{name: len(value) for name, value in part.items()} for part in parts]
        self.features = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for value in self.features.values():
            value.requires_grad_(value.is_floating_point())

    def replay(self) -> None:
        """Encode every piece again with a graph and accumulate the gradients of the weights."""
        after = _random_state(self._device)
        offsets = dict.fromkeys(self.features, 0)
        for piece, state, rows in zip(self._pieces, self._states, self._rows, strict=True):
            _restore(state, self._device)
            with self._context():
                outputs = self._encode(piece)
            roots, gradients = [], []
            for name, output in outputs.items():
                gradient = self.features[name].grad
                if gradient is not None and output.requires_grad:
                    roots.append(output)
                    gradients.append(gradient[offsets[name] : offsets[name] + rows[name]])
                offsets[name] += rows[name]
            if roots:
                torch.autograd.backward(roots, gradients)
        _restore(after, self._device)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _restore(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
