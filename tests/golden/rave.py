"""RAVE: the residual vector with and without shift, its guidance, and the latent variant's guides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, normalize

from counterpoint.encoders.guiding import clip_pixels
from counterpoint.enhancement import LOGIT_SCALE, Weights
from counterpoint.losses import negative_probability, residual_guidance
from counterpoint.losses.residual import residual_vector, shifted, token_scores
from counterpoint.systems.rave import FACTOR
from counterpoint.views.image import CLIP_MEAN, CLIP_STD

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def residual(given: Arrays) -> Arrays:
    found = residual_vector(_tensor(given["embs_backlit"]), _tensor(given["embs_welllit"]))
    of_tokens: dict[str, np.ndarray] = {}
    if "vocab_embs" in given:
        tokens = _tensor(given["vocab_embs"])
        scores = token_scores(tokens, found.direction)
        order = scores.argsort(stable=True)
        found, removed = shifted(found, tokens, int(given["n_tokens"]))
        of_tokens = {
            "token_order": order.numpy(),
            "token_scores": scores[order].numpy(),
            "remove_emb": removed.numpy(),
        }
    return {
        "vector_pos": found.positive.numpy(),
        "vector_neg": found.negative.numpy(),
        "residual_vector": found.direction.numpy(),
        "thr": found.threshold.numpy(),
        **of_tokens,
    }


def guidance_loss(given: Arrays) -> Arrays:
    images = _tensor(given["images"], grad=True)
    taken = clip_pixels(images, SimpleNamespace(size=224, mean=CLIP_MEAN, std=CLIP_STD))
    features = adaptive_avg_pool2d(taken, 4).flatten(1) @ _tensor(given["P"])
    direction = normalize(_tensor(given["residual_vector"]), dim=1)
    loss = residual_guidance(normalize(features, dim=1), direction, threshold=float(given["thr"]))
    loss.backward()
    return {
        "image_features": features.detach().numpy(),
        "loss": loss.detach().numpy(),
        "weighted_loss": (FACTOR * Weights().guidance * loss).detach().numpy(),
        "grad_images": images.grad.numpy(),
    }


def latent_learner(given: Arrays) -> Arrays:
    image, latents = _tensor(given["image_features"]), _tensor(given["guidance_embeddings"], grad=True)
    logits = LOGIT_SCALE * image @ normalize(latents, dim=1).T
    loss = cross_entropy(logits, _tensor(given["labels"]))
    (of_loss,) = torch.autograd.grad(loss, latents)
    negative = negative_probability(image, normalize(latents, dim=1), logit_scale=LOGIT_SCALE)
    (of_sum,) = torch.autograd.grad(negative.sum(), latents)
    return {
        "logits": logits.detach().numpy(),
        "ce_loss": loss.detach().numpy(),
        "grad_guidance": of_loss.numpy(),
        "prob_negative": negative.detach().numpy(),
        "grad_sum_prob": of_sum.numpy(),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "rave/residual_vector": residual,
    "rave/guidance_loss": guidance_loss,
    "rave/latent_learner": latent_learner,
}
