"""A slowly moving copy of a network."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class MomentumEncoder(nn.Module):
    """Exponential moving average of a module: theta_m <- m theta_m + (1 - m) theta (He et al. 2020, eq. 2).

    A deep copy, made when it is built: build it after pre-trained weights are loaded. Its parameters require
    no gradient and are therefore in no optimiser; they are saved with the run. Buffers are copied as they
    are. `forward` runs the copy without gradient, in whatever mode (`train` / `eval`) it is set to.

    Args:
        module: the network to follow.
        momentum: m in [0, 1].

    Raises:
        ValueError: `momentum` outside [0, 1], or a module of other parameters in `update`.
    """

    def __init__(self, module: nn.Module, momentum: float) -> None:
        super().__init__()
        self.momentum = _checked(momentum)
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, momentum: float | None = None) -> None:
        """Move towards `module`; `momentum` overrides that of the constructor for this step (schedules)."""
        rate = self.momentum if momentum is None else _checked(momentum)
        theirs = dict(module.named_parameters())
        ours = dict(self.module.named_parameters())
        if theirs.keys() != ours.keys():
            different = sorted(theirs.keys() ^ ours.keys())
            raise ValueError(f"module must have the parameters of the copied one; only one has {different[:3]}")
        for name, parameter in ours.items():
            parameter.mul_(rate).add_(theirs[name].detach().to(parameter), alpha=1 - rate)
        buffers = dict(module.named_buffers())
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the copy returns."""
        return self.module(*args, **kwargs)


def _checked(momentum: float) -> float:
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
    return momentum


def momentum_at(progress: float, start: float) -> float:
    """From `start` to 1 along a cosine, with `progress` from 0 to 1."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
