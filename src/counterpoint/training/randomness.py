"""Every random number of a run is a pure function of its seed and its position; no generator's state is stored."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["DrawWatch", "derive", "deterministic_algorithms", "seed_everything"]

_TWISTER_BYTES = 4 * 624 + 4
"""Of a Mersenne twister: 624 words and the position in them."""


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**63) from numbers and words; the same on every machine, for any PYTHONHASHSEED."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_everything(*parts: int | str) -> None:
    """Seed torch (all devices), NumPy and Python from `derive(*parts)`."""
    seed = derive(*parts)
    # torch.manual_seed would queue a call (with a stack trace) at every step for as long as CUDA is not started.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for code of others that draws from the global generator
    random.seed(seed)


class DrawWatch:
    """Notices random numbers drawn from the generators that `seed_everything` seeds.

    Args:
        device: whose generator is watched beside those of the CPU.

    Attributes:
        drew: some were drawn while it watched; from then on it no longer looks.
    """

    def __init__(self, device: torch.device) -> None:
        self.drew = False
        self._device = device

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, draws are noticed."""
        if self.drew:
            yield
            return
        before = self._states()
        yield
        self.drew = before != self._states()

    def _states(self) -> tuple[Any, ...]:
        words = torch.get_rng_state().numpy().tobytes()
        if self._device.type == "cuda":
            words += torch.cuda.get_rng_state(self._device).numpy().tobytes()
        return words, _numpy_state(), random.getstate()


def _numpy_state() -> Any:
    """The state of NumPy's global generator; read where it lies, since `np.random.get_state` takes 30 microseconds."""
    numpy_random: Any = np.random  # its stubs leave `get_bit_generator` out
    generator = numpy_random.get_bit_generator()
    if isinstance(generator, np.random.MT19937):
        return ctypes.string_at(generator.ctypes.state_address, _TWISTER_BYTES)
    return repr(generator.state)


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside, torch uses deterministic algorithms where it has them; the previous setting comes back afterwards."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    benchmark, filling = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    memory.fill_uninitialized_memory = False  # costs time, and nothing here reads what was not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = filling
