"""Which samples may be computed together, and how long they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from counterpoint.system import System

__all__ = ["Length", "Shape", "longest", "sample_shape", "without_lengths"]


class Length(int):
    """Of something sequential: token ids (L,), frames or points (L, F)."""


Shape = tuple[Any, ...]
"""Names, shapes and lengths of everything in a sample, flat."""


def sample_shape(system: System, sample: Mapping[str, Any]) -> Shape:
    """What samples must share to be computed together; of the collated form of plain text, which shows its length."""
    parts = _parts(sample, 0)
    return tuple(_parts(system.collate([sample]), 1) if str in parts else parts)


def longest(shape: Shape) -> int | None:
    """The greatest length; None where nothing is sequential."""
    return max((part for part in shape if isinstance(part, Length)), default=None)


def without_lengths(shape: Shape) -> Shape:
    """Equal for samples that differ in their lengths alone."""
    return tuple(Length if isinstance(part, Length) else part for part in shape)


def _parts(value: Any, batched: int) -> list[Any]:
    """Names, shapes (without the first `batched` dimensions) and lengths; `str` for what has no shape of its own."""
    if isinstance(value, Mapping):
        return [part for name in sorted(value) for part in (f"{name}:", *_parts(value[name], batched))]
    if isinstance(value, list | tuple):
        return [f"{len(value)} of", *(part for item in value for part in _parts(item, batched))]
    if isinstance(value, str | bytes):
        return [str]
    shape = tuple(np.shape(value))[batched:]
    if len(shape) == 2 or (len(shape) == 1 and _whole(value)):
        return [Length(shape[0]), *shape[1:]]
    return [shape]


def _whole(value: Any) -> bool:
    """Whether it holds whole numbers."""
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex())
    return np.asarray(value).dtype.kind in "iu"
