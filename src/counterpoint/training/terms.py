"""From the named terms of a loss to one number: counts are those of all processes and micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.distributed import reduce_sum
from counterpoint.system import System, Term

__all__ = ["Combined", "as_terms", "combine", "total_counts", "uneven_counts"]


@dataclass(frozen=True)
class Combined:
    """A loss put together.

    Attributes:
        loss: scalar, differentiable.
        parts: name -> detached value of each term, unweighted.
        guess: loss of a guesser over the guessed terms, or None.
        guessed: detached weighted sum of the terms that have a guess, or None.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    guess: float | None
    guessed: Tensor | None


def as_terms(values: Mapping[str, Tensor | Term], system: System, rows: int) -> dict[str, Term]:
    """What `loss` returned, all as terms; a lone plain tensor of a coupled system takes its guess level.

    Args:
        values: name -> scalar tensor or term.
        system: whose loss it is, for the guess level and error texts.
        rows: rows the loss saw.

    Raises:
        TypeError: not a mapping, or a value that is no scalar tensor; names it.
    """
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"loss() of {type(system).__name__} must return a dict of named terms, got {values!r}")
    terms = {}
    for name, value in values.items():
        term = value if isinstance(value, Term) else Term(value)
        if not isinstance(term.total, Tensor) or term.total.numel() != 1:
            raise TypeError(f"loss term {name!r} of {type(system).__name__} must be a scalar tensor, got {value!r}")
        if not isinstance(value, Term) and len(values) == 1 and type(system).couples:
            term = Term(term.total, term.count, system.guess_level(rows), term.weight)
        terms[name] = term
    return terms


def uneven_counts(terms: Mapping[str, Term]) -> dict[str, Tensor | float]:
    """Counts of the terms that are sums. Their number is the same on every process, whatever the counts are."""
    return {name: term.count for name, term in terms.items() if term.count is not None}


def total_counts(counts: Mapping[str, Tensor | float], device: torch.device) -> dict[str, Tensor]:
    """Counts of this process -> counts of all processes, one message."""
    names = sorted(counts)
    if not names:
        return {}
    own = torch.stack([torch.as_tensor(counts[name], dtype=torch.float64).reshape(()).to(device) for name in names])
    return dict(zip(names, reduce_sum(own).unbind(), strict=True))


def combine(terms: Mapping[str, Term], denominators: Mapping[str, Tensor | float] | None = None) -> Combined:
    """Weighted sum of total / count.

    Args:
        terms: of one loss.
        denominators: name -> what to divide the total by instead of the term's own count.
    """
    parts: dict[str, Tensor] = {}
    loss: Tensor | None = None
    guessed: Tensor | None = None
    guess = 0.0
    for name, term in terms.items():
        count = term.count if denominators is None else denominators[name]
        value = _divide(term.total.reshape(()), count)
        weighted = value * term.weight if term.weight != 1.0 else value
        parts[name] = value.detach()
        loss = weighted if loss is None else loss + weighted
        if term.guess is not None:
            guess += term.guess * term.weight
            guessed = weighted.detach() if guessed is None else guessed + weighted.detach()
    assert loss is not None
    return Combined(loss, parts, guess if guessed is not None else None, guessed)


def _divide(total: Tensor, count: Tensor | float | None) -> Tensor:
    """total / count, and 0 where nothing was counted; a mean stays as it is."""
    if count is None:
        return total
    if isinstance(count, Tensor):
        count = count.to(device=total.device, dtype=torch.promote_types(total.dtype, torch.float32))
        return total / count.clamp(min=torch.finfo(torch.float32).tiny)
    return total / max(float(count), 1e-30)
