"""SupReMix: which rows are mixed, the loss with and without mixtures, and the released loss with two maxima."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from counterpoint.losses import supremix_loss
from counterpoint.losses.ordinal_contrast import Candidates, mixtures, ordinal_contrast

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def mixed_rows(given: Arrays) -> Arrays:
    """The list of mixtures, laid out as the official cube: mix-neg at j = i, unused slots zero."""
    z = _tensor(given["features"])
    window, coefficients = float(given["window"]), _tensor(given["neg_alpha"])
    found = mixtures(_tensor(given["labels"]).repeat(2), coefficients=coefficients, window=window)
    place = (found.anchor, found.first, found.second)
    vectors = z.new_zeros(len(z), len(z), *z.shape)
    vectors[place] = found.share[:, None] * z[found.first] + (1 - found.share[:, None]) * z[found.second]
    mask = torch.full((len(z),) * 3, -1, dtype=torch.int8)
    mask[place] = (found.first != found.anchor).to(torch.int8)
    targets = z.new_zeros((len(z),) * 3)
    targets[place] = found.target
    return {"mixtures": vectors.numpy(), "mix_mask": mask.numpy(), "mix_labels": targets.numpy()}


def _answer(loss: Tensor, features: Tensor) -> Arrays:
    loss.backward()
    assert features.grad is not None
    return {"loss": loss.detach().numpy(), "grad_features": features.grad.numpy()}


def joint(given: Arrays) -> Arrays:
    features = _tensor(given["features"], grad=True)  # (B, 2, D)
    loss = supremix_loss(
        features[:, 0],
        features[:, 1],
        _tensor(given["labels"]),
        coefficients=_tensor(given["neg_alpha"]) if given.get("mix_neg") else None,
        window=float(given["window"]) if given.get("mix_pos") else None,
        temperature=float(given["temperature"]),
        weighting=_weighting(given),
    )
    return _answer(loss, features)


def _weighting(given: Arrays) -> str:
    return str(given.get("distance", "l1_inv")).lower() if given["use_weight"] else "none"


def released(given: Arrays) -> Arrays:
    """The released loss is ours on logits from which each block's own row maximum was taken."""
    features = _tensor(given["features"], grad=True)
    z, temperature = torch.cat(list(features.unbind(1))), float(given["temperature"])  # (N, D)
    targets = _tensor(given["labels"]).repeat(2)
    real = z @ z.T / temperature  # (N, N)
    mixed = (z[:, None] * _tensor(given["mixtures"])).sum(2) / temperature  # (N, M)
    real, mixed = (block - block.detach().amax(1, keepdim=True) for block in (real, mixed))
    mask, weighting = _tensor(given["mix_mask"]), _weighting(given)
    distance = (_tensor(given["mix_labels"]) - targets[:, None]).abs()
    distance = distance + 1 if weighting == "l2_inv" else distance  # the released weight of mixtures alone
    anchor, slot = (mask >= 0).nonzero().unbind(1)
    candidates = Candidates(anchor, mixed[anchor, slot], distance[anchor, slot], mask[anchor, slot] == 1)
    return _answer(ordinal_contrast(real, targets, candidates=candidates, weighting=weighting), features)


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "supremix/mixtures": mixed_rows,
    "supremix/supremix_joint": joint,
    "supremix/mixneg_only": joint,
    "supremix/mixpos_only": joint,
    "supremix/supcon_weighted": joint,
    "supremix/supcon_plain": joint,
    "supremix/supremix_official": released,
}
