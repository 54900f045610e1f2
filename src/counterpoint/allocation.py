"""Memory that is freed stays with the process, so that the next tensor need not be mapped and cleared again."""

from __future__ import annotations

import ctypes
import functools
import sys

__all__ = ["keep_freed_memory"]

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 2**30
_MAPPED = 32 * 2**20
"""The largest that glibc accepts: larger tensors are mapped and unmapped each time, as before."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep up to 1 GiB of freed memory for the rest of the process; a second call does nothing.

    By default glibc gives memory back whenever the last 128 kB of its heap are free, and the system clears every
    page when it is asked for again, between two layers of a network for one. Verbs that compute on a CPU call this; a
    module of mathematics does not.

    Returns:
        Whether the C library took it: False without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(adjust(name, value) == 1 for name, value in ((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _MAPPED)))
