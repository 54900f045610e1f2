"""Who computes which tile of a large loss. Alone, one does all of them.

A trainer whose processes all hold the same rows installs a `Party` around the loss (`using`). The engine then visits
its own tiles only, and adds the parts of all. Its gradient is that of its own tiles times the number of members, so
that the mean over the members, which the trainer takes anyway, is the whole gradient. Nothing here knows how parts
travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

from torch import Tensor

__all__ = ["ALONE", "Alone", "Party", "party_for", "using"]

SHARED_FROM = 2**22
"""Entries of a similarity matrix from which it is shared out; below, a message costs more than the work."""

_T = TypeVar("_T")
Compute = Callable[[], tuple[Tensor, ...]]


class Party(Protocol):
    """Those who share the tiles. Every member makes the same calls in the same order.

    Attributes:
        members: how many.
    """

    members: int

    def mine(self, tiles: Iterable[_T]) -> Iterator[_T]:
        """The tiles of this member; every tile belongs to one."""

    def summed(self, compute: Compute) -> tuple[Tensor, ...]:
        """Sum over the members of what each one's `compute` gives; an error of one is raised on all."""

    def logsumexp(self, compute: Compute) -> tuple[Tensor, ...]:
        """Logarithm of the sum over the members of the exponentials; likewise."""


class Alone:
    """The only member of its party."""

    members = 1

    def mine(self, tiles: Iterable[_T]) -> Iterator[_T]:
        """All of them."""
        return iter(tiles)

    def summed(self, compute: Compute) -> tuple[Tensor, ...]:
        """As they are."""
        return compute()

    def logsumexp(self, compute: Compute) -> tuple[Tensor, ...]:
        """As they are."""
        return compute()


ALONE: Party = Alone()
_PARTY: ContextVar[Party] = ContextVar("who shares the tiles", default=ALONE)


@contextmanager
def using(party: Party) -> Iterator[None]:
    """Inside, large losses share their tiles with `party`. All members must compute the same losses of the same rows.

    Backward may run outside, or in another thread: a loss remembers its party.
    """
    token = _PARTY.set(party)
    try:
        yield
    finally:
        _PARTY.reset(token)


def party_for(entries: int) -> Party:
    """The installed party for a matrix of so many entries; for small ones everybody works alone."""
    return _PARTY.get() if entries >= SHARED_FROM else ALONE
