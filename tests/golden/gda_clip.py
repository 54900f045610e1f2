"""GDA-CLIP: few-shot, base-to-new, unsupervised EM."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from counterpoint.gaussians import gaussian_head, ridge_precision, soft_statistics
from counterpoint.systems.gda_clip import GDACLIP

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _percent(logits: Tensor, labels: Tensor) -> np.ndarray:
    return 100 * (logits.argmax(dim=1) == labels).double().mean().numpy()


def few_shot(given: Arrays) -> Arrays:
    copies = int(given["augment_epoch"])
    features, labels = _tensor(given["raw_features"]), _tensor(given["labels"])
    model = GDACLIP(mode="few_shot").fit(
        features.repeat(copies, 1),
        labels.repeat(copies),
        text_features=_tensor(given["clip_weights"]).T,
        validation=(_tensor(given["val_features"]), _tensor(given["val_labels"])),
    )
    logits = model.logits(_tensor(given["test_features"]))
    return {
        "mus": model.means_.numpy(),
        "cov_inv": model.precision_.numpy(),
        "W": model.weight_.numpy(),
        "b": model.bias_.numpy(),
        "best_alpha": np.array(model.alpha_),
        "best_val_acc": np.array(100 * model.validation_accuracy_),
        "test_logits": logits.numpy(),
        "test_acc": _percent(logits, _tensor(given["test_labels"])),
    }


def base_to_new(given: Arrays) -> Arrays:
    base = given["raw_clip_weights"].shape[1]
    texts = np.concatenate([given["raw_clip_weights"], given["raw_clip_weights_new"]], axis=1).T
    model = GDACLIP(mode="base_to_new", neighbours=int(given["k"]), text_repeats=int(given["text_repeat"]))
    model.fit(
        _tensor(given["raw_features"]),
        _tensor(given["labels"]),
        text_features=_tensor(texts),
        validation=(_tensor(given["raw_val_features"]), _tensor(given["val_labels"])),
    )
    base_logits = model.logits(_tensor(given["raw_test_features"]))[:, :base]
    new_logits = model.logits(_tensor(given["raw_test_features_new"]))[:, base:]
    return {
        "W_base": model.weight_[:, :base].numpy(),
        "b_base": model.bias_[:base].numpy(),
        "W_new": model.weight_[:, base:].numpy(),
        "b_new": model.bias_[base:].numpy(),
        "mu_new": model.new_means_.numpy(),
        "best_alpha": np.array(model.alpha_),
        "test_logits_new": new_logits.numpy(),
        "base_acc": _percent(base_logits, _tensor(given["test_labels"])),
        "new_acc": _percent(new_logits, _tensor(given["test_labels_new"])),
    }


def unsupervised(given: Arrays) -> Arrays:
    features, texts = _tensor(given["features"]), _tensor(given["text_features"])
    zero_shot = 100 * features @ texts.T
    posterior = zero_shot.softmax(dim=1)
    found = {"init_gamma": posterior.numpy()}
    for step in range(int(given["n_iter"])):
        means, covariance = soft_statistics(features, posterior)
        precision = ridge_precision(covariance * (len(features) - 1), len(features))
        weight, bias = gaussian_head(means, precision)
        logits = zero_shot + float(given["alpha"]) * (features @ weight + bias)
        posterior = logits.softmax(dim=1)
        found |= {
            f"mus_{step}": means.numpy(),
            f"cov_{step}": covariance.numpy(),
            f"gamma_{step}": posterior.numpy(),
        }
    return found | {"W": weight.numpy(), "b": bias.numpy(), "logits": logits.numpy()}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "gda_clip/gda_base2new": base_to_new,
    "gda_clip/gda_fewshot": few_shot,
    "gda_clip/gda_unsup_em": unsupervised,
}
