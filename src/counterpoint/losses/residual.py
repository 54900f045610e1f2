"""The residual vector of RAVE: the direction from one kind of embeddings to another, and what it says in words."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["Residual", "residual_vector", "shifted", "token_scores"]


class Residual(NamedTuple):
    """The direction from backlit to well-lit pictures, all (D,) but the threshold.

    Attributes:
        positive, negative: normalised means of well-lit and of backlit embeddings.
        direction: their normalised difference.
        threshold: () share of `positive` along the direction.
    """

    positive: Tensor
    negative: Tensor
    direction: Tensor
    threshold: Tensor


def residual_vector(backlit: Tensor, well_lit: Tensor) -> Residual:
    """From embeddings (N, D) and (M, D): each is normalised, and each mean again (section 4.2)."""
    negative, positive = (normalize(normalize(rows, dim=1).mean(dim=0), dim=0) for rows in (backlit, well_lit))
    return _towards(positive, negative, normalize(positive - negative, dim=0))


def _towards(positive: Tensor, negative: Tensor, direction: Tensor) -> Residual:
    return Residual(positive, negative, direction, positive @ direction)


def token_scores(tokens: Tensor, direction: Tensor) -> Tensor:
    """Cosines (V,) of token embeddings (V, D) with the direction: high ones describe well-lit pictures."""
    return normalize(tokens, dim=1) @ normalize(direction, dim=0)


def shifted(residual: Residual, tokens: Tensor, count: int) -> tuple[Residual, Tensor]:
    """The residual without what its `count` nearest and `count` farthest tokens (V, D) say; and that direction (D,).

    The means weigh the embeddings as they are, by their cosines; those of the farthest are negative, so both lie along
    the residual. The official code stops here by an undefined name; this is what it means.

    Raises:
        ValueError: `count` below 1 or more tokens than there are.
    """
    if not 1 <= count <= len(tokens):
        raise ValueError(f"count must lie in [1, {len(tokens)}], the number of tokens; got {count}")
    scores = token_scores(tokens, residual.direction)
    order = scores.argsort(stable=True)
    ends = [(scores[chosen, None] * tokens[chosen]).mean(dim=0) for chosen in (order[-count:], order[:count])]
    removed = normalize(normalize(ends[0], dim=0) + normalize(ends[1], dim=0), dim=0)
    direction = normalize(residual.direction - (removed @ residual.direction) * removed, dim=0)
    return _towards(residual.positive, residual.negative, direction), removed
