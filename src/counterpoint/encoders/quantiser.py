"""A vector becomes one of a few learnt ones: the discrete units of speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Codebook", "GumbelQuantiser", "Quantised", "gumbel_noise", "select", "uniform_of_rows"]


@dataclass(frozen=True)
class Codebook:
    """The units, and how they are chosen.

    Attributes:
        groups, codes: codebooks, and vectors of each.
        dim: length of a unit's vector, those of all codebooks together.
        hottest, coldest, cooling: temperature of the choice at the start, at the end, and its factor a step.
    """

    groups: int = 1
    codes: int = 1024
    dim: int = 1024
    hottest: float = 2.0
    coldest: float = 0.1
    cooling: float = 0.999995

    def __post_init__(self) -> None:
        if self.groups < 1 or self.codes < 2 or self.dim < 1 or self.dim % self.groups:
            raise ValueError(f"groups must be at least 1 and divide dim, and codes at least 2; got {self}")
        if not 0 < self.coldest <= self.hottest or not 0 < self.cooling <= 1:
            raise ValueError(f"0 < coldest <= hottest and 0 < cooling <= 1 must hold, got {self}")

    def temperature(self, step: int) -> float:
        """At a step of training."""
        return max(self.hottest * self.cooling**step, self.coldest)


class Quantised(NamedTuple):
    """What a quantiser made of (..., D).

    Attributes:
        vectors: (..., dim) the chosen code vectors, those of all codebooks side by side.
        codes: (..., G) int64, which ones.
        probabilities: (..., G, V) softmax of the scores, without noise or temperature.
    """

    vectors: Tensor
    codes: Tensor
    probabilities: Tensor


def select(scores: Tensor, noise: Tensor | None, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Scores (..., V) -> one-hot (..., V) and its place (...): the largest after noise (Jang et al. 2017).

    The gradient is that of softmax((scores + noise) / temperature), straight through the choice; without noise there is
    none.
    """
    noisy = scores if noise is None else scores + noise
    codes = noisy.argmax(dim=-1)
    chosen = torch.nn.functional.one_hot(codes, scores.shape[-1]).to(scores.dtype)
    if noise is None:
        return chosen, codes
    soft = (noisy / temperature).softmax(dim=-1)
    return chosen + (soft - soft.detach()), codes


def gumbel_noise(uniform: Tensor) -> Tensor:
    """Uniform draws in [0, 1) -> Gumbel draws."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()


def uniform_of_rows(seeds: Tensor, shape: Sequence[int], *, like: Tensor) -> Tensor:
    """(B,) seeds -> (B, *shape) in [0, 1): a row's draws depend on its own seed alone, and on its length not at all."""
    drawn = [torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds.tolist()]
    stacked = torch.stack(drawn) if drawn else torch.zeros(0, *shape)
    return stacked.to(like.device, like.dtype)


class GumbelQuantiser(nn.Module):
    """Codebooks of learnt vectors, one of each chosen by linear scores (wav2vec 2.0, section 2 and equation 1).

    Args:
        inputs: D of what is quantised.
        codebook: numbers of codebooks G and of their vectors V, and the length of the result.
    """

    def __init__(self, inputs: int, codebook: Codebook) -> None:
        super().__init__()
        self.groups, self.codes = groups, codes = codebook.groups, codebook.codes
        self.scores = nn.Linear(inputs, groups * codes)
        nn.init.normal_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)
        self.vectors = nn.Parameter(torch.rand(groups, codes, codebook.dim // groups))

    def forward(self, x: Tensor, noise: Tensor | None = None, *, temperature: float = 1.0) -> Quantised:
        """(..., inputs), Gumbel noise (..., G, V) -> the choice; the largest score is taken where there is no noise."""
        scores = self.scores(x).unflatten(-1, (self.groups, self.codes))  # (..., G, V)
        chosen, codes = select(scores, noise, temperature=temperature)
        vectors = torch.einsum("...gv,gvd->...gd", chosen, self.vectors.to(chosen.dtype)).flatten(-2)
        return Quantised(vectors, codes, scores.softmax(dim=-1))
