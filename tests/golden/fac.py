"""FAC: both contrasts, pooling, the correspondence of points, and the scene-level baseline with its queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.encoders.correspondence import correspondence as corresponding
from counterpoint.encoders.correspondence import transported
from counterpoint.losses import foreground_contrast as contrast_foreground
from counterpoint.losses import geometric_contrast as contrast_geometry
from counterpoint.losses import moco_loss
from counterpoint.losses.segment_contrast import segment_means
from counterpoint.memory import Queue

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def geometric_contrast(given: Arrays) -> Arrays:
    first, second = _tensor(given["feats_1"], grad=True), _tensor(given["feats_2"], grad=True)
    own, theirs = (_tensor(given[f"segments_{view}"])[None] for view in (1, 2))
    total, count = contrast_geometry(
        normalize(first, dim=1)[None],
        normalize(second, dim=1)[None],
        own,
        theirs,
        own >= 0,
        temperature=float(given["temperature"]),
    )
    loss = total / count
    loss.backward()
    return {"loss": loss.detach().numpy(), "grad_feats_1": first.grad.numpy(), "grad_feats_2": second.grad.numpy()}


def foreground_contrast(given: Arrays) -> Arrays:
    first, second = _tensor(given["segment_feats_1"], grad=True), _tensor(given["segment_feats_2"], grad=True)
    total, count = contrast_foreground(
        normalize(first, dim=1)[None],
        normalize(second, dim=1)[None],
        _tensor(given["is_foreground"]).long()[None],
        hardest=int(given["topk_background"]),
        temperature=float(given["temperature"]),
    )
    loss = total / count
    loss.backward()
    return {
        "loss": loss.detach().numpy(),
        "grad_segment_feats_1": first.grad.numpy(),
        "grad_segment_feats_2": second.grad.numpy(),
    }


def segment_pool(given: Arrays) -> Arrays:
    points, segments = _tensor(given["feats"], grad=True), _tensor(given["segments"])
    means, _ = segment_means(points[None], segments[None], int(segments.max()) + 1)
    (means[0] * _tensor(given["cotangent"])).sum().backward()
    return {"pooled": means[0].detach().numpy(), "grad_feats": points.grad.numpy()}


def correspondence(given: Arrays) -> Arrays:
    first, second = _tensor(given["feats_1"])[None], _tensor(given["feats_2"])[None]
    temperature = float(given["temperature"])
    return {
        "correspondence": corresponding(first, second, temperature=temperature)[0].numpy(),
        "transported": transported(first, second, temperature=temperature)[0].numpy(),
    }


def moco_nce(given: Arrays) -> Arrays:
    query, key = _tensor(given["query"], grad=True), normalize(_tensor(given["key"]), dim=1)
    dim, size = given["queue"].shape
    queue = Queue(size, dim).double()
    queue.storage.copy_(_tensor(given["queue"]).T)
    queue.pointer.fill_(int(given["queue_ptr"]))
    queue.filled.fill_(size)
    loss = moco_loss(normalize(query, dim=1), key, queue.rows(), temperature=float(given["temperature"]))
    loss.backward()
    queue.push(key)
    return {
        "loss": loss.detach().numpy(),
        "grad_query": query.grad.numpy(),
        "queue_after": queue.storage.T.numpy(),
        "queue_ptr_after": queue.pointer.numpy(),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "fac/geometric_contrast": geometric_contrast,
    "fac/foreground_contrast": foreground_contrast,
    "fac/segment_pool": segment_pool,
    "fac/correspondence": correspondence,
    "fac/moco_nce": moco_nce,
}
