"""Frozen copies of a network at its best moments, and the last values of a figure."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["LastValues", "Snapshots"]


class LastValues(nn.Module):
    """The last `size` numbers that were pushed, as buffers: saved and resumed with the model.

    Args:
        size: numbers kept.
    """

    values: Tensor
    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size = size
        self.register_buffer("values", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, value: Tensor) -> None:
        """Append a number (0-d); the oldest leaves."""
        self.values[int(self.seen) % self.size] = value.detach().to(self.values)
        self.seen += 1

    def mean(self, count: int | None = None) -> float:
        """Mean of the last `count` numbers (all that are kept by default), or of those there are.

        Raises:
            ValueError: nothing was pushed.
        """
        there = min(int(self.seen), self.size, count or self.size)
        if not there:
            raise ValueError("no value was pushed yet: there is no mean")
        places = [(int(self.seen) - 1 - back) % self.size for back in range(there)]
        return float(self.values[places].mean())

    def reset(self) -> None:
        """Back to the start."""
        self.values.zero_()
        self.seen.zero_()


class Snapshots(nn.Module):
    """Frozen copies of a network: the best of this round, and the best of the round before.

    Args:
        module: the network; copied as it is.

    Attributes:
        previous, current: the copies.
        rounds: 0-d int64 buffer, how many rounds began: with 0 no copy means anything, with 1 only `current` does.
    """

    rounds: Tensor
    offers: Tensor
    best: Tensor

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.previous = copy.deepcopy(module).requires_grad_(False)
        self.current = copy.deepcopy(module).requires_grad_(False)
        for name in ("rounds", "offers"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.zeros((), dtype=torch.float64))

    def begin_round(self) -> None:
        """What is current becomes previous."""
        self.previous.load_state_dict(self.current.state_dict())
        self.rounds += 1
        self.offers.zero_()

    @torch.no_grad()
    def offer(self, module: nn.Module, score: float) -> None:
        """Copy the network if it is the first of this round or has a lower score than all before it."""
        if int(self.offers) == 0 or score < float(self.best):
            self.current.load_state_dict(module.state_dict())
            self.best.fill_(score)
        self.offers += 1

    def results(self) -> list[nn.Module]:
        """The copies that mean something, oldest first."""
        return [self.previous, self.current][2 - min(int(self.rounds), 2) :]
