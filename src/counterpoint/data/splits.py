"""Splits that depend on what a row is, not on where it stands: the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

__all__ = ["hash_order", "hash_share", "hashed_split"]


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone (SHA-256, so not on PYTHONHASHSEED)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big") / 2**56


def hash_order(keys: Iterable[str], *, salt: str = "") -> list[str]:
    """The distinct keys in an order drawn by their hashes."""
    return sorted(set(keys), key=lambda key: (hash_share(f"{salt}/{key}"), key))


def hashed_split(key: str, *, train: float, validation: float) -> str:
    """ "train", "validation" or "test" by the hash of the key; the shares are those of the first two."""
    share = hash_share(key)
    if share < train:
        return "train"
    return "validation" if share < train + validation else "test"
