"""Pixel propagation: cells of a feature map smoothed by those that resemble them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.heads import conv_mlp

__all__ = ["Propagation"]


class Propagation(nn.Module):
    """A cell becomes a sum over the cells that resemble it (PixPro, arXiv 2011.10043, section 3.2, equations 3 and 4).

    out_i = sum_j max(cos(x_i, x_j), clamp)^gamma g(x_j), g of unit length; no softmax and no division by the sum.

    Args:
        dim: channels.
        gamma: sharpness.
        clamp: smallest similarity.
        layers: of g: 0 is the identity, 1 a linear map, 2 an MLP.
    """

    def __init__(self, dim: int, *, gamma: float, clamp: float, layers: int) -> None:
        super().__init__()
        if layers not in (0, 1, 2):
            raise ValueError(f"transform_layers must be 0, 1 or 2, got {layers}")
        maps = (nn.Identity(), nn.Conv2d(dim, dim, 1), conv_mlp(dim, dim, dim))
        self.gamma, self.clamp, self.transform = gamma, clamp, maps[layers]

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) of any length -> the same shape, not yet normalised."""
        unit, values = normalize(features, dim=1).flatten(2), normalize(self.transform(features), dim=1).flatten(2)
        similarity = torch.einsum("ncp,ncq->npq", unit, unit).clamp(min=self.clamp)  # (N, P, P)
        if self.gamma < 1:
            similarity = similarity + 1e-6  # its root has no slope at 0
        return torch.einsum("npq,ncq->ncp", similarity**self.gamma, values).unflatten(2, features.shape[2:])
