"""Behaviour of the contrastive loss: values, penalties, limits, hard losses, the loss of embeddings, geometry."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.geometry import tolerance, tolerance_all_pairs, uniformity
from counterpoint.losses import temperature_behaviour as ours
from counterpoint.losses.temperature_behaviour import contrastive_loss as loss_of
from counterpoint.losses.temperature_behaviour import hardest, similarities, simple_loss

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _leaves(given: Arrays) -> tuple[Tensor, Tensor]:
    return _tensor(given["s_pos"]).requires_grad_(), _tensor(given["s_neg"]).requires_grad_()


def _arrays(**found: Tensor) -> Arrays:
    return {name: value.detach().numpy() for name, value in found.items()}


def contrastive_loss(given: Arrays) -> Arrays:
    positive, negative = _leaves(given)
    temperature = float(given["temperature"])
    loss = loss_of(positive, negative, temperature=temperature)
    of_positive, of_negative = torch.autograd.grad(loss.sum(), (positive, negative))
    return _arrays(
        loss=loss,
        prob=ours.candidate_probability(positive, negative, temperature=temperature),
        grad_s_pos=of_positive,
        grad_s_neg=of_negative,
        relative_penalty=ours.relative_penalty(negative, temperature=temperature),
        penalty_entropy=ours.penalty_entropy(negative, temperature=temperature),
        large_tau_approx=ours.large_temperature_limit(positive, negative, temperature=temperature),
        small_tau_approx=ours.small_temperature_limit(positive, negative, temperature=temperature),
    )


def hard_contrastive_loss(given: Arrays) -> Arrays:
    positive, negative = _leaves(given)
    alpha, weight = float(given["alpha"]), float(given["lam"])
    threshold, kept = hardest(negative, alpha=alpha)
    loss = loss_of(positive, negative, temperature=float(given["temperature"]), kept=kept)
    of_positive, of_negative = torch.autograd.grad(loss.sum(), (positive, negative))
    simple = simple_loss(positive, negative, weight=weight)
    hard_simple = simple_loss(positive, negative, weight=weight, kept=kept)
    return _arrays(
        n_kept=torch.tensor(ours.kept_count(negative.shape[1], alpha)),
        threshold=threshold,
        mask=kept.to(torch.uint8),
        loss=loss,
        grad_s_pos=of_positive,
        grad_s_neg=of_negative,
        simple_loss=simple,
        hard_simple_loss=hard_simple,
        grad_s_neg_simple=torch.autograd.grad(simple.sum(), negative)[0],
        grad_s_neg_hard_simple=torch.autograd.grad(hard_simple.sum(), negative)[0],
    )


def embedding_loss(given: Arrays) -> Arrays:
    x, y = _tensor(given["x"]).requires_grad_(), _tensor(given["y"]).requires_grad_()
    sides = [(x, y), (y, x)] if bool(given["symmetric"]) else [(x, y)]
    losses = [
        loss_of(*similarities(normalize(a, dim=1), normalize(b, dim=1)), temperature=float(given["temperature"])).mean()
        for a, b in sides
    ]
    loss = torch.stack(losses).mean()
    of_x, of_y = torch.autograd.grad(loss, (x, y))
    return _arrays(loss=loss, grad_x=of_x, grad_y=of_y)


def uniformity_tolerance(given: Arrays) -> Arrays:
    features, labels = _tensor(given["features"]), _tensor(given["labels"])
    return _arrays(
        uniformity=uniformity(features, temperature=float(given["t"])),
        tolerance=tolerance(features, labels),
        tolerance_all_pairs=tolerance_all_pairs(features, labels),
    )


ADAPTERS = {
    "contrastive_loss_behaviour/contrastive_loss": contrastive_loss,
    "contrastive_loss_behaviour/embedding_loss": embedding_loss,
    "contrastive_loss_behaviour/hard_contrastive_loss": hard_contrastive_loss,
    "contrastive_loss_behaviour/uniformity_tolerance": uniformity_tolerance,
}
