"""CLIP: the symmetric and the sigmoid loss with their gradients, and the zero-shot classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.evaluation.zero_shot import top_k_accuracy, zero_shot_classifier
from counterpoint.losses import clip_loss, siglip_loss

Arrays = Mapping[str, np.ndarray]


def _leaves(given: Arrays, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(given[name])).requires_grad_() for name in names if name in given}


def _gradients(leaves: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {f"grad_{name}": leaf.grad.numpy() for name, leaf in leaves.items() if leaf.grad is not None}


def softmax(given: Arrays) -> Arrays:
    leaves = _leaves(given, ("image_features", "text_features", "logit_scale", "logit_bias"))
    image, text, scale = leaves["image_features"], leaves["text_features"], leaves["logit_scale"]
    bias = leaves.get("logit_bias")
    loss = clip_loss(image, text, logit_scale=scale, logit_bias=bias)
    loss.backward()
    logits = (scale * image @ text.T + (0.0 if bias is None else bias)).detach()
    return {
        "out_loss": loss.detach().numpy(),
        "out_logits_per_image": logits.numpy(),
        "out_logits_per_text": logits.T.numpy(),
        **_gradients(leaves),
    }


def sigmoid(given: Arrays) -> Arrays:
    leaves = _leaves(given, ("image_features", "text_features", "logit_scale", "logit_bias"))
    loss = siglip_loss(
        leaves["image_features"],
        leaves["text_features"],
        logit_scale=leaves["logit_scale"],
        logit_bias=leaves["logit_bias"],
        negative_only=bool(given["negative_only"]),
    )
    loss.backward()
    return {"out_loss": loss.detach().numpy(), **_gradients(leaves)}


def classifier(given: Arrays) -> Arrays:
    weights = zero_shot_classifier(torch.from_numpy(given["prompt_features"]))
    images = torch.from_numpy(given["image_features"])
    logits = 100 * normalize(images, dim=1) @ weights
    accuracy = top_k_accuracy(logits, torch.from_numpy(given["labels"]), at=(1, 3))
    return {
        "out_classifier": weights.numpy(),
        "out_logits": logits.numpy(),
        "out_top1": np.array(accuracy[1]),
        "out_top3": np.array(accuracy[3]),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "clip/clip_loss": softmax,
    "clip/siglip_loss": sigmoid,
    "clip/zero_shot_classifier": classifier,
}
