"""BECLR: clustered memory, batch enhancement, loss, heads, transported prototypes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.heads import deep_projector, mlp
from counterpoint.evaluation.transport import standardise, transport_plan, transport_prototypes
from counterpoint.memory.clusters import ClusterMemory, relaxed_sinkhorn
from counterpoint.systems.beclr import BECLR
from counterpoint.views.masked import MaskedViews

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def _sinkhorn(given: Arrays) -> Arrays:
    found = relaxed_sinkhorn(
        _tensor(given["scores"]), epsilon=float(given["epsilon"]), iterations=int(given["n_iterations"])
    )
    return {"q": found.numpy()}


def _memory(given: Arrays) -> ClusterMemory:
    size, dim = given["bank_before"].shape
    metric = str(given["metric"])
    memory = ClusterMemory(
        size,
        dim,
        len(given["prototypes_before"]),
        distance="cosine" if metric == "cosine" else "euclidean_released",
        unit=bool(given.get("normalize", 1)),
        epsilon=float(given["epsilon"]),
        iterations=int(given["n_iterations"]),
        momentum=float(given["momentum"]),
    ).to(_tensor(given["bank_before"]).dtype)
    memory.bank.copy_(_tensor(given["bank_before"]))
    memory.labels.copy_(_tensor(given["labels_before"]))
    memory.prototypes.copy_(_tensor(given["prototypes_before"]))
    memory.pointer.fill_(int(given["ptr_before"]))
    memory.clustered.fill_(True)
    return memory


def _state(memory: ClusterMemory) -> dict[str, np.ndarray]:
    return {
        "bank_after": memory.bank.numpy(),
        "labels_after": memory.labels.numpy(),
        "prototypes_after": memory.prototypes.numpy(),
        "prototypes_after_intended": memory.prototypes.numpy(),
        "ptr_after": memory.pointer.numpy(),
    }


def _update(given: Arrays) -> Arrays:
    memory = _memory(given)
    memory.push(_tensor(given["z"]))
    return _state(memory)


def _enhance(given: Arrays) -> Arrays:
    z, topk = _tensor(given["z"], grad=True), int(given["topk"])
    memory = _memory(given).pushed(z)
    out = memory.enhance(z, topk)
    (out * _tensor(given["upstream"])).sum().backward()
    index = torch.stack([memory.neighbours(view, topk) for view in z.chunk(2)])
    assert z.grad is not None
    return {
        **_state(memory),
        "out_intended": out.detach().numpy(),
        "grad_z_released": z.grad.numpy(),
        "neighbour_index_intended": index.numpy(),
    }


def _loss(given: Arrays) -> Arrays:
    system = BECLR(
        "test_resnet?size=32",
        MaskedViews(size=32),
        neighbours=0,
        pairs=str(given["config"]),  # type: ignore[arg-type]
        temperature=float(given["temperature"]),
        negatives=float(given["lambda_neg"]),
    )
    names = {"target": "z_teacher", "prediction": "p_student", "projection": "z_student"}
    rows = {name: _tensor(given[key], grad=True) for name, key in names.items()}
    system.threshold = float(given["pos_threshold"]) if "pos_threshold" in given else None
    terms = system.terms(rows, _tensor(given["memory"]) if "memory" in given else None)
    positive, negative = terms["positive"], terms["negative"].total
    loss = positive + system.negatives * negative
    loss.backward()
    gradients = {
        f"grad_{key}": np.zeros_like(given[key]) if (grad := rows[name].grad) is None else grad.numpy()
        for name, key in names.items()
    }
    std = normalize(rows["target"].detach(), dim=1).std(dim=0).mean()  # the official collapse gauge
    found = {"loss": loss, "loss_pos": positive, "loss_neg": negative, "std": std}
    return {**{name: value.detach().numpy() for name, value in found.items()}, **gradients}


def _opta(given: Arrays) -> Arrays:
    support, query, passes = _tensor(given["support"]), _tensor(given["query"]), int(given["passes"])
    options = {
        "epsilon": float(given["regularization"]),
        "iterations": int(given["max_iter"]),
        "tolerance": float(given["threshold"]),
    }
    plan, cost = transport_plan(support, query, **options)  # type: ignore[arg-type]
    moved = [transport_prototypes(support, query, passes=n + 1, **options) for n in range(passes)]  # type: ignore[arg-type]
    ratio = float(given.get("ratio", 1.0))
    blended = transport_prototypes(support, query, passes=passes, ratio=ratio, **options)  # type: ignore[arg-type]
    return {
        "cost_matrix_normalized": cost.numpy(),
        "plan": plan.numpy(),
        "cost": (plan * cost).sum().numpy(),
        "transported": torch.stack(moved).numpy(),
        "blended": blended.numpy(),
    }


def _heads(given: Arrays) -> Arrays:
    dim, features = given["proj_0_weight"].shape
    heads = {"proj": deep_projector(features, dim), "pred": mlp(dim, len(given["pred_0_weight"]), dim)}
    for prefix, head in heads.items():
        head.double()
        for name, parameter in head.named_parameters():
            parameter.data = _tensor(given[f"{prefix}_{name.replace('.', '_')}"])
    z = heads["proj"](_tensor(given["x"]))
    return {"z": z.detach().numpy(), "p": heads["pred"](z).detach().numpy()}


def _feature_normalize(given: Arrays) -> Arrays:
    return {"out": standardise(_tensor(given["f"])).numpy()}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "beclr/sinkhorn": _sinkhorn,
    "beclr/dyce_update": _update,
    "beclr/dyce_enhance": _enhance,
    "beclr/loss": _loss,
    "beclr/opta": _opta,
    "beclr/heads": _heads,
    "beclr/feature_normalize": _feature_normalize,
}
