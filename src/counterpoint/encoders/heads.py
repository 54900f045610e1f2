"""Small networks behind an encoder: what a loss sees, and what is left behind after training."""

from __future__ import annotations

from torch import nn

__all__ = ["conv_mlp", "deep_projector", "mlp", "projection_head"]


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear; at every row, or at every point of a cloud."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def conv_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The same two-layer network at every cell, with BatchNorm over all of them."""
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, outputs, 1))


def deep_projector(features: int, dim: int) -> nn.Sequential:
    """Three times linear and BatchNorm, with ReLU between."""
    layers: list[nn.Module] = []
    for width in (features, dim, dim):
        layers += [nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def projection_head(features: int, hidden: int, dim: int, layers: int = 1) -> nn.Sequential:
    """`layers` times Linear, BatchNorm, ReLU, then Linear; its BatchNorms already see the rows of all processes."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        norm = nn.BatchNorm1d(hidden)
        norm.sees_all_rows = True  # type: ignore[assignment]
        parts += [nn.Linear(features, hidden), norm, nn.ReLU()]
        features = hidden
    return nn.Sequential(*parts, nn.Linear(features, dim))
