"""Another dropout than a checkpoint's own."""

from __future__ import annotations

from torch import nn

__all__ = ["set_dropout"]


def set_dropout(module: nn.Module, probability: float | None) -> None:
    """Give every dropout layer in `module` this probability; None leaves them as they are.

    Raises:
        ValueError: outside [0, 1).
    """
    if probability is None:
        return
    if not 0 <= probability < 1:
        raise ValueError(f"dropout must be in [0, 1), got {probability!r}")
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = probability
