"""Measures of an embedding: alignment, uniformity, tolerance, effective rank, duplicates."""

from __future__ import annotations

import torch
from torch import Tensor


def alignment(first: Tensor, second: Tensor, *, exponent: float = 2.0) -> Tensor:
    """Mean distance of positives, to a power (Wang and Isola 2020)."""
    return (first - second).norm(dim=1).pow(exponent).mean()


def uniformity(embeddings: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of all pairs (Wang and Isola 2020)."""
    return torch.pdist(embeddings).square().mul(-temperature).exp().mean().log()


def tolerance(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine of pairs of one class (Wang and Liu 2021)."""
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    same = (labels[:, None] == labels[None]).triu(1)
    return (unit @ unit.T)[same].mean()


def effective_rank(embeddings: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals((embeddings - embeddings.mean(0)).float())
    share = values / values.sum()
    return torch.exp(-torch.xlogy(share, share).sum())


def duplicate_rate(embeddings: Tensor, *, threshold: float = 0.999) -> float:
    """Share of rows that have another row at cosine >= threshold."""
    unit = torch.nn.functional.normalize(embeddings.float(), dim=1)
    cosine = (unit @ unit.T).fill_diagonal_(-2.0)
    return float((cosine.amax(1) >= threshold).float().mean())
