"""SepCLR: its kernels, both supervised alignments, and every term of the whole objective from raw heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from counterpoint.geometry import alignment, uniformity
from counterpoint.losses import attribute_alignment, joint_entropy
from counterpoint.system import Term
from counterpoint.systems.sepclr import SepCLR
from counterpoint.training.terms import combine

Arrays = Mapping[str, np.ndarray]
HEADS = ("common_1", "common_2", "salient_1", "salient_2")
TERMS = {
    "common_align": "common_alignment",
    "common_uniform": "common_uniformity",
    "salient_align": "salient_alignment",
    "salient_uniform": "salient_uniformity",
    "info_less": "absence",
    "jem": "joint_entropy",
}
"""Stored name of a term -> ours."""


def _answer(given: Arrays, learnt: tuple[str, ...], loss: Callable[..., Tensor]) -> Arrays:
    """The loss and its gradients by the arrays named `learnt`."""
    leaves = [torch.from_numpy(np.array(given[name])).requires_grad_() for name in learnt]
    value = loss(*leaves)
    value.backward()
    return {
        "loss": value.detach().numpy(),
        **{f"grad_{name}": leaf.grad.numpy() for name, leaf in zip(learnt, leaves, strict=True)},  # type: ignore[union-attr]
    }


def align_loss(given: Arrays) -> Arrays:
    exponent, width = float(given["alpha"]), 2 * float(given["tau"])
    return _answer(given, ("x", "y"), lambda x, y: alignment(x, y, exponent=exponent) / width)


def uniform_loss(given: Arrays) -> Arrays:
    return _answer(given, ("x",), lambda x: uniformity(x, temperature=1 / (2 * float(given["tau"]))))


def joint_entropy_loss(given: Arrays) -> Arrays:
    """The official k-JEM is the negative entropy."""
    return _answer(given, ("c", "s"), lambda c, s: -joint_entropy(c, s, temperature=float(given["tau"])))


def _attribute(given: Arrays, bandwidth: float | None) -> Arrays:
    known = torch.from_numpy(np.array(given["y"]))[:, None]
    return _answer(given, ("x",), lambda x: attribute_alignment(x[:, None], known.to(x.dtype), bandwidth=bandwidth))


def sup_align_loss(given: Arrays) -> Arrays:
    return _attribute(given, float(given["tau"]))


def discrete_sup_align_loss(given: Arrays) -> Arrays:
    return _attribute(given, None)


def sepclr_total(given: Arrays) -> Arrays:
    """`SepCLR.loss` on the stored heads; the encoders are not asked."""
    heads = {name: torch.from_numpy(np.array(given[name])).requires_grad_() for name in HEADS}
    system = SepCLR(
        "test_resnet?size=32",
        common_dim=heads["common_1"].shape[1],
        salient_dim=heads["salient_1"].shape[1],
        hidden=2,
        temperature=float(given["tau"]),
        salient_weight=float(given["salient_weight"]),
        absence_weight=float(given["info_less_weight"]),
        joint_entropy_weight=float(given["jem_weight"]),
    )
    labels = torch.from_numpy(np.array(given["labels"]))
    features = {
        "common": torch.stack([heads["common_1"], heads["common_2"]], dim=1),
        "salient": torch.stack([heads["salient_1"], heads["salient_2"]], dim=1),
        "target": labels == 1,
        "attributes": torch.zeros(len(labels), 0),
    }
    found = system.loss(features)
    combined = combine({name: term if isinstance(term, Term) else Term(term) for name, term in found.items()})
    combined.loss.backward()
    return {
        "loss": combined.loss.detach().numpy(),
        **{stored: combined.parts[ours].numpy() for stored, ours in TERMS.items()},
        **{f"grad_{name}": leaf.grad.numpy() for name, leaf in heads.items()},  # type: ignore[union-attr]
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "sepclr/align_loss": align_loss,
    "sepclr/uniform_loss": uniform_loss,
    "sepclr/joint_entropy_loss": joint_entropy_loss,
    "sepclr/sup_align_loss": sup_align_loss,
    "sepclr/discrete_sup_align_loss": discrete_sup_align_loss,
    "sepclr/sepclr_total": sepclr_total,
}
