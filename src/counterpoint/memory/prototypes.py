"""Learned cluster centres on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Prototypes(nn.Module):
    """K centres of dimension D, compared by dot product (Caron et al. 2020, section 3.1).

    Args:
        dim: D.
        count: K.

    Attributes:
        weight: (K, D) parameter, rows of unit length at the start. The optimiser moves them off the sphere;
            call `normalise_` at the start of every step.
        frozen: while True the weight takes no part in the gradient: its `.grad` stays None, so the optimiser
            skips it with momentum and weight decay.

    Raises:
        ValueError: `dim` or `count` below 1; embeddings of another width.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        if dim < 1 or count < 1:
            raise ValueError(f"prototypes need dim >= 1 and count >= 1, got dim={dim}, count={count}")
        self.weight = nn.Parameter(nn.functional.normalize(torch.randn(count, dim), dim=1))
        self.frozen = False

    @torch.no_grad()
    def normalise_(self) -> None:
        """Give every row unit length, in place and without gradient."""
        self.weight.copy_(nn.functional.normalize(self.weight, dim=1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(..., D) -> (..., K) scores."""
        if embeddings.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"embeddings must have width {self.weight.shape[1]}, got {tuple(embeddings.shape)}")
        return nn.functional.linear(embeddings, self.weight.detach() if self.frozen else self.weight)

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"dim={self.weight.shape[1]}, count={self.weight.shape[0]}"
