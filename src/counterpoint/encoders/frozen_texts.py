"""Vectors of texts that a frozen encoder has seen: captions come back every epoch, their vectors do not change."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from counterpoint.encoders.text import TextEncoder

__all__ = ["FrozenTexts"]

ROWS = 32
"""Texts that are computed together, always so many."""
STEP = 8
"""Lengths are rounded up to a multiple of this."""


class FrozenTexts:
    """Remembers the pooled vectors of a frozen text encoder.

    A vector must not depend on which other texts were missing with it, or a resumed run, which starts with nothing
    remembered, would differ from an unbroken one in the last bits. So texts are always computed in tensors of the same
    shape for their own length, filled up where needed.

    Args:
        capacity: texts that are remembered; the one unused for longest is forgotten first.
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self.capacity = capacity
        self._vectors: OrderedDict[bytes, Tensor] = OrderedDict()
        self._state: tuple[object, ...] = ()

    def __len__(self) -> int:
        return len(self._vectors)

    def __call__(self, encoder: TextEncoder, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens -> (B, dim), without gradient."""
        state = _state(encoder)
        if state != self._state:
            self._vectors.clear()
            self._state = state
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        rows = [row[real].numpy() for row, real in zip(ids.cpu(), mask.cpu().bool(), strict=True)]
        keys = [row.tobytes() for row in rows]
        missing: dict[int, dict[bytes, Tensor]] = {}
        for key, row in zip(keys, rows, strict=True):
            if key not in self._vectors:
                missing.setdefault(-(-len(row) // STEP) * STEP, {})[key] = torch.from_numpy(row)
        found = {key: self._vectors[key] for key in keys if key in self._vectors}
        for length, texts in missing.items():
            found |= _compute(encoder, texts, length, ids.device)
        for key in found:
            self._vectors[key] = found[key]
            self._vectors.move_to_end(key)
        while len(self._vectors) > self.capacity:
            self._vectors.popitem(last=False)
        return torch.stack([found[key] for key in keys])


def _state(encoder: TextEncoder) -> tuple[object, ...]:
    """Changes whenever the encoder's weights or its arithmetic do."""
    parameters = list(encoder.parameters())
    device = parameters[0].device
    cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return sum(p._version for p in parameters), parameters[0].dtype, device, parameters[0].data_ptr(), cast


@torch.no_grad()
def _compute(
    encoder: TextEncoder, texts: dict[bytes, Tensor], length: int, device: torch.device
) -> dict[bytes, Tensor]:
    keys = list(texts)
    found: dict[bytes, Tensor] = {}
    for first in range(0, len(keys), ROWS):
        some = keys[first : first + ROWS]
        ids = torch.full((ROWS, length), encoder.tokenizer.pad_token_id or 0, dtype=torch.int64)
        mask = torch.zeros((ROWS, length), dtype=torch.int64)
        mask[:, 0] = 1  # a row that is only filling still needs a token
        for row, key in enumerate(some):
            ids[row, : len(texts[key])], mask[row, : len(texts[key])] = texts[key], 1
        vectors = encoder({"input_ids": ids.to(device), "attention_mask": mask.to(device)})
        found |= {key: vector.clone() for key, vector in zip(some, vectors, strict=False)}
    return found
