"""FILIP: late interaction and its loss, token selection, prompt ensembles, and the released variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.losses import late_interaction, late_interaction_directions, late_interaction_similarity
from counterpoint.losses.late_interaction_variants import class_scores, released_loss, select_tokens

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def similarity(given: Arrays) -> Arrays:
    image, text = _tensor(given["image_tokens"], grad=True), _tensor(given["text_tokens"], grad=True)
    forward, backward = late_interaction_similarity(
        normalize(image, dim=2), normalize(text, dim=2), text_mask=_tensor(given["text_mask"])
    )
    probes = _tensor(given["probe_i2t"]) * forward, _tensor(given["probe_t2i"]) * backward.T
    (probes[0].sum() + probes[1].sum()).backward()
    return {
        "out_sim_i2t": forward.detach().numpy(),
        "out_sim_t2i": backward.T.detach().numpy(),
        "grad_image_tokens": image.grad.numpy(),
        "grad_text_tokens": text.grad.numpy(),
    }


def loss(given: Arrays) -> Arrays:
    image, text = _tensor(given["image_tokens"], grad=True), _tensor(given["text_tokens"], grad=True)
    temperature = _tensor(given["temperature"], grad=True)
    tokens = normalize(image, dim=2), normalize(text, dim=2)
    settings = {"temperature": temperature, "text_mask": _tensor(given["text_mask"])}
    value = late_interaction(*tokens, **settings)
    value.backward()
    with torch.no_grad():
        forward, backward = late_interaction_directions(*tokens, **settings)
    return {
        "out_loss": value.detach().numpy(),
        "out_loss_i2t": forward.numpy(),
        "out_loss_t2i": backward.numpy(),
        "grad_image_tokens": image.grad.numpy(),
        "grad_text_tokens": text.grad.numpy(),
        "grad_temperature": temperature.grad.numpy(),
    }


def selection(given: Arrays) -> Arrays:
    choice = select_tokens(
        _tensor(given["image_tokens"]),
        _tensor(given["text_tokens"]),
        _tensor(given["text_mask"]),
        ratio=float(given["ratio"]),
    )
    return {
        "image_weight": choice.image_weight.numpy(),
        "out_image_index": choice.image_index.numpy(),
        "out_text_index": choice.text_index.numpy(),
        "out_text_valid": choice.text_valid.numpy(),
    }


def ensemble(given: Arrays) -> Arrays:
    image, prompts = (normalize(_tensor(given[name]), dim=-1) for name in ("image_tokens", "prompt_tokens"))
    scores = class_scores(image, prompts, _tensor(given["prompt_mask"]))
    return {"out_class_scores": scores.numpy(), "out_pred": scores.argmax(dim=1).numpy()}


def released(given: Arrays) -> Arrays:
    image, text = _tensor(given["image_tokens_with_cls"], grad=True), _tensor(given["text_tokens"], grad=True)
    value, per_image, per_text = released_loss(
        image,
        text,
        _tensor(given["text_mask"]),
        log_scale_image=_tensor(given["log_scale_image"]),
        log_scale_text=_tensor(given["log_scale_text"]),
        label_smoothing=float(given["label_smoothing"]),
    )
    value.backward()
    return {
        "out_loss": value.detach().numpy(),
        "out_logits_per_image": per_image.detach().numpy(),
        "out_logits_per_text": per_text.detach().numpy(),
        "grad_image_tokens_with_cls": image.grad.numpy(),
        "grad_text_tokens": text.grad.numpy(),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "filip/late_interaction": similarity,
    "filip/filip_loss": loss,
    "filip/token_selection": selection,
    "filip/prompt_ensemble": ensemble,
    "filip/released_variant_loss": released,
}
