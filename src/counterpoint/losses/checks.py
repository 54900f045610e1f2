"""What every loss asks of its arguments, and the words it uses when they do not fit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "all_finite",
    "finite_loss",
    "floating",
    "integers",
    "matrix",
    "positive_scalar",
    "same_rows",
    "same_width",
    "scalar",
    "smoothing",
    "target_columns",
]


def matrix(**named: Tensor) -> None:
    """Each is a floating tensor (N, D) with N, D >= 1.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: not two-dimensional, or empty.
    """
    for name, value in named.items():
        floating(name, value)
        if value.dim() != 2:
            raise ValueError(f"{name} must have shape (N, D), got {tuple(value.shape)}")
        if value.numel() == 0:
            raise ValueError(f"{name} must have at least one row and one column, got shape {tuple(value.shape)}")


def floating(name: str, value: Tensor) -> None:
    """A floating tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}; convert it with {name}.float()")


def same_width(**named: Tensor) -> None:
    """All have the same last dimension.

    Raises:
        ValueError: they have not.
    """
    widths = {name: value.shape[-1] for name, value in named.items()}
    if len(set(widths.values())) > 1:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
        raise ValueError(f"{' and '.join(widths)} must have the same last dimension, got {shapes}")


def same_rows(**named: Tensor) -> None:
    """All have the same number of rows, row i of one belonging to row i of the other.

    Raises:
        ValueError: they have not.
    """
    if len({len(value) for value in named.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
        raise ValueError(f"{' and '.join(named)} must have the same number of rows, got {shapes}")


def scalar(name: str, value: float | Tensor, *, like: Tensor) -> Tensor:
    """A finite number as a 0-d tensor of the working precision, on the device of `like`; keeps its gradient.

    Raises:
        TypeError: not a real number.
        ValueError: a tensor of more than one element, or not finite.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must be a number or a tensor of one element, got shape {tuple(value.shape)}")
        result = value.reshape(()).to(like.device, dtype)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = torch.tensor(float(value), dtype=dtype, device=like.device)
    else:
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(result.detach())
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return result


def positive_scalar(name: str, value: float | Tensor, *, like: Tensor) -> Tensor:
    """As `scalar`, and above zero.

    Raises:
        TypeError: not a real number.
        ValueError: not finite or not positive.
    """
    result = scalar(name, value, like=like)
    if float(result.detach()) <= 0.0:
        raise ValueError(f"{name} must be positive, got {float(result.detach()):g}")
    return result


def finite_loss(loss: Tensor, **named: Tensor | None) -> Tensor:
    """The loss itself when it is finite; the arguments are searched only when it is not.

    Raises:
        ValueError: names the argument and the row that holds a NaN or an infinity, or says that the logits
            overflow.
    """
    if bool(torch.isfinite(loss.detach())):
        return loss
    for name, value in named.items():
        if value is None or not value.is_floating_point():
            continue
        bad = ~torch.isfinite(value.detach().reshape(len(value), -1)).all(dim=1)
        if bool(bad.any()):
            rows = bad.nonzero().flatten().tolist()
            more = "" if len(rows) == 1 else f" (and {len(rows) - 1} more)"
            raise ValueError(f"{name} must be finite, but row {rows[0]}{more} holds NaN or infinity; drop those rows")
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items() if value is not None)
    raise ValueError(
        f"the loss of {shapes} is {float(loss.detach())} although all rows are finite: products overflow; "
        "normalise the rows or raise the temperature (lower the logit scale)"
    )


def all_finite(**named: Tensor) -> None:
    """No NaN and no infinity in any of them, for losses that would not show it.

    Raises:
        ValueError: names the argument and the row.
    """
    for name, value in named.items():
        if value.numel():
            finite_loss(value.detach().abs().amax(), **{name: value})


def smoothing(value: float) -> bool:
    """Whether there is any label smoothing.

    Raises:
        ValueError: outside [0, 1).
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {value}")
    return value > 0.0


def target_columns(targets: Tensor | None, *, rows: int, candidates: int, device: torch.device) -> Tensor:
    """(rows,) int64 column of each row's positive; 0, 1, ... by default.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or outside [0, candidates).
    """
    if targets is None:
        return torch.arange(rows, device=device)
    integers("targets", targets, rows)
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= candidates:
        raise ValueError(f"targets must lie in [0, {candidates}), got values from {low} to {high}")
    return targets.to(device, torch.int64)


def integers(name: str, value: Tensor, rows: int) -> None:
    """An integer tensor (rows,).

    Raises:
        TypeError: not a tensor of integers.
        ValueError: another shape.
    """
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be an integer tensor, got {got}")
    if value.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), one for each row, got {tuple(value.shape)}")
