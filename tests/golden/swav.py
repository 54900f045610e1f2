"""SwAV: codes, swapped loss with queue, crop grouping, prototype normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.heads import projection_head
from counterpoint.losses import sinkhorn
from counterpoint.memory import Prototypes
from counterpoint.systems.swav import SwAV, encode_crops
from counterpoint.views.image import MultiCrop

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def _codes(scores: np.ndarray, given: Arrays) -> np.ndarray:
    return sinkhorn(_tensor(scores), epsilon=float(given["epsilon"]), iterations=int(given["n_iterations"])).numpy()


def codes(given: Arrays) -> Arrays:
    return {"q": _codes(given["scores"], given)}


def codes_sharded(given: Arrays) -> Arrays:
    """Every process holds the rows of all, so the shards are slices of one result."""
    shards = [given[f"scores_rank{rank}"] for rank in range(int(given["world_size"]))]
    ends = np.cumsum([len(shard) for shard in shards])[:-1]
    parts = np.split(_codes(np.concatenate(shards), given), ends)
    return {f"q_rank{rank}": part for rank, part in enumerate(parts)}


def _system(given: Arrays, crops: tuple[int, ...]) -> SwAV:
    prototypes = given["prototypes"]
    queue = given["queue_before"].shape[1] if "queue_before" in given else 0
    system = SwAV(
        "test_resnet?size=32",
        crops=MultiCrop(sizes=tuple(range(len(crops), 0, -1)), counts=crops, scales=((0.1, 1.0),) * len(crops)),
        assigned=tuple(int(crop) for crop in given["crops_for_assign"]),
        hidden=2,
        dim=prototypes.shape[1],
        prototypes=len(prototypes),
        temperature=float(given["temperature"]),
        epsilon=float(given["epsilon"]),
        iterations=int(given["n_iterations"]),
        queue=queue,
        queue_starts=0,
        freeze=0,
    ).to(torch.float64)
    system.prototypes.weight.data = _tensor(prototypes).to(torch.float64)
    for place, crop in enumerate(system.assigned if queue else ()):
        rows = _tensor(given["queue_before"][place])
        filled = int(rows.any(dim=1).nonzero().amax()) + 1 if rows.any() else 0
        system.queues[str(crop)].push(rows[:filled].flip(0))  # stored newest first
    return system


def swapped_loss(given: Arrays) -> Arrays:
    steps = given["embeddings"]
    single = steps.ndim == 2
    system = _system(given, tuple(int(count) for count in given["nmb_crops"]))
    views, found = int(given["nmb_crops"].sum()), []
    system.before_step()
    normalised = system.prototypes.weight.detach().clone()
    for step in steps[None] if single else steps:
        embeddings = _tensor(step, grad=True)
        by_row = embeddings.unflatten(0, (views, -1)).transpose(0, 1)  # (B, V, D)
        system.prototypes.weight.grad = None
        loss = system.swap(by_row)
        loss.backward()
        system.after_step({"embeddings": by_row.detach()})
        found.append((loss.detach(), embeddings.grad, system.prototypes.weight.grad))
    names = ("loss", "grad_embeddings", "grad_prototypes")
    outputs = {name: np.stack([parts[i].numpy() for parts in found]) for i, name in enumerate(names)}
    outputs = {name: value[0] for name, value in outputs.items()} if single else outputs
    outputs["prototypes_normalized"] = normalised.numpy()
    if system.queues is not None:
        outputs["queue_after"] = np.stack([_newest_first(system, crop) for crop in system.assigned])
    return outputs


def _newest_first(system: SwAV, crop: int) -> np.ndarray:
    queue = system.queues[str(crop)]
    rows = queue.rows().flip(0)
    return np.concatenate([rows.numpy(), np.zeros((queue.size - len(rows), queue.dim))])


class _ToyBackbone(nn.Module):
    """conv3x3 (pad 1, no bias), BatchNorm, ReLU, mean over space; notes the shape of every call."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
        self.conv.weight.data = weight
        self.norm = nn.BatchNorm2d(weight.shape[0], dtype=weight.dtype)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        return self.norm(self.conv(images)).relu().mean(dim=(2, 3))


def multicrop_forward(given: Arrays) -> Arrays:
    backbone = _ToyBackbone(_tensor(given["conv_weight"]))
    hidden, features = given["head0_weight"].shape
    head = projection_head(features, hidden, len(given["head3_weight"])).to(backbone.conv.weight.dtype)
    for layer in ("0", "3"):
        head[int(layer)].weight.data = _tensor(given[f"head{layer}_weight"])
        head[int(layer)].bias.data = _tensor(given[f"head{layer}_bias"])
    crops = [_tensor(given[f"crop{i}"]) for i in range(sum(name.startswith("crop") for name in given))]
    embedding = head(encode_crops(backbone, crops))
    embedding = normalize(embedding, dim=1) if int(given["l2norm"]) else embedding
    prototypes = Prototypes(*given["prototypes"].shape[::-1])
    prototypes.weight.data = _tensor(given["prototypes"])
    return {
        "embedding": embedding.detach().numpy(),
        "scores": prototypes(embedding).detach().numpy(),
        "call_shapes": np.array(backbone.shapes),
        "bn2d_running_mean": backbone.norm.running_mean.numpy(),
        "bn2d_running_var": backbone.norm.running_var.numpy(),
    }


def prototype_normalize(given: Arrays) -> Arrays:
    prototypes = Prototypes(*given["weight"].shape[::-1])
    prototypes.weight.data = _tensor(given["weight"])
    prototypes.normalise_()
    return {"normalized": prototypes.weight.detach().numpy()}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "swav/sinkhorn": codes,
    "swav/sinkhorn_sharded": codes_sharded,
    "swav/swapped_loss": swapped_loss,
    "swav/multicrop_forward": multicrop_forward,
    "swav/prototype_normalize": prototype_normalize,
}
