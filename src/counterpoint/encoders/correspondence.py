"""Siamese correspondence network: points of a scene carry over what resembles them in its other view."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from counterpoint.encoders.heads import mlp

__all__ = ["Correspondence", "at_points", "correspondence", "transported"]


def at_points(module: nn.Module, points: Tensor, valid: Tensor) -> Tensor:
    """A module of rows at the valid points of (B, N, C) -> (B, N, C'), zero elsewhere; padding joins no statistic."""
    found = module(points[valid])  # (P, C')
    return found.new_zeros(*valid.shape, found.shape[1]).masked_scatter(valid.unsqueeze(2), found)


def correspondence(first: Tensor, second: Tensor, valid: Tensor | None = None, *, temperature: float) -> Tensor:
    """How much each point of one view corresponds to each of the other: softmax of cosines over the other's points.

    With first = second it is the correlation within a view: its rows are the activation maps of points.

    Args:
        first: (B, N, C).
        second: (B, M, C).
        valid: (B, M) of bool, False at padding of `second`.
        temperature: above 0.

    Returns:
        (B, N, M), rows sum to one.
    """
    cosines = normalize(first, dim=2) @ normalize(second, dim=2).mT  # (B, N, M)
    if valid is not None:
        cosines = cosines.masked_fill(~_some(valid), float("-inf"))
    return (cosines / temperature).softmax(dim=2)


def transported(first: Tensor, second: Tensor, valid: Tensor | None = None, *, temperature: float) -> Tensor:
    """(B, N, C): `correspondence(...) @ second` without holding the correspondence; arguments as there."""
    mask = None if valid is None else _some(valid)
    return scaled_dot_product_attention(
        normalize(first, dim=2), normalize(second, dim=2), second, attn_mask=mask, scale=1 / temperature
    )


def _some(valid: Tensor) -> Tensor:
    """(B, 1, M): all where a row has none, so that its softmax is defined."""
    return (valid | ~valid.any(dim=1, keepdim=True)).unsqueeze(1)


class Correspondence(nn.Module):
    """Points of both views through one network, each joined by what corresponds to it in the other view.

    With Z = MLP(points) and P the softmax of cosines of Z1 and Z2 over Z2: Z1 + P Z2, and likewise from Z2, the weights
    shared. The project's definition of FAC's network (arXiv 2303.06388), whose code is not public.

    Args:
        inputs: channels of the points.
        outputs: channels that come out.
        temperature: of the softmax.
    """

    def __init__(self, inputs: int, outputs: int, *, temperature: float) -> None:
        super().__init__()
        self.layers, self.temperature = mlp(inputs, inputs, outputs), temperature

    def forward(
        self, first: Tensor, second: Tensor, first_valid: Tensor, second_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, N, C), (B, M, C) and which points there are -> (B, N, C'), (B, M, C'), not normalised."""
        ours, theirs = at_points(self.layers, first, first_valid), at_points(self.layers, second, second_valid)
        return (
            ours + transported(ours, theirs, second_valid, temperature=self.temperature),
            theirs + transported(theirs, ours, first_valid, temperature=self.temperature),
        )
