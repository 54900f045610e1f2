"""ESimCSE and SimCSE: repetition, losses, poolers, queue, momentum, geometry, STS scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.text import pool
from counterpoint.evaluation.sts import sts_spearman
from counterpoint.geometry import alignment, uniformity
from counterpoint.losses.simcse import esimcse_loss
from counterpoint.memory import MomentumEncoder, Queue
from counterpoint.views.text import pad_tokens, repeat_tokens, repeat_words

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def repeat_bpe(given: Arrays) -> Arrays:
    repeated = [
        repeat_tokens(_tensor(ids[:length]), places[:count].tolist())
        for ids, length, places, count in zip(
            given["input_ids"],
            given["input_lengths"],
            given["dup_positions"],
            given["dup_counts"],
            strict=True,
        )
    ]
    ids, mask = pad_tokens(repeated, pad_id=-1)
    return {"output_ids": ids.numpy(), "output_lengths": mask.sum(dim=1).numpy()}


def repeat_word(given: Arrays) -> Arrays:
    rows = zip(given["sentences"], given["dup_positions"], given["dup_counts"], strict=True)
    return {"outputs": np.array([repeat_words(str(text), places[:count].tolist()) for text, places, count in rows])}


def loss(given: Arrays) -> Arrays:
    names = [name for name in ("z1", "z2", "z3", "mlp_weight", "mlp_bias") if name in given]
    leaves = {name: _tensor(given[name], grad=True) for name in names}
    head = (
        (lambda z: torch.tanh(nn.functional.linear(z, leaves["mlp_weight"], leaves["mlp_bias"])))
        if "mlp_weight" in leaves
        else nn.Identity()
    )
    first, second = head(leaves["z1"]), head(leaves["z2"])
    hard = head(leaves["z3"]) if "z3" in leaves else None
    temperature, weight = float(given["temperature"]), float(given.get("hard_negative_weight", 0.0))
    queue = _tensor(given["queue"]) if "queue" in given else None
    value = esimcse_loss(
        first,
        second,
        queue=queue,
        hard_negatives=hard,
        hard_negative_weight=weight,
        temperature=temperature,
    )
    value.backward()
    logits = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    if hard is not None:
        block = normalize(first, dim=1) @ normalize(hard, dim=1).T / temperature
        logits = torch.cat([logits, block + weight * torch.eye(len(block), dtype=block.dtype)], dim=1)
    gradients = {f"grad_{name}": leaf.grad.numpy() for name, leaf in leaves.items()}
    return {"loss": value.detach().numpy(), "logits_without_queue": logits.detach().numpy(), **gradients}


def pooler(given: Arrays) -> Arrays:
    layers = sum(name.startswith("hidden_states_") for name in given)
    states = [_tensor(given[f"hidden_states_{i}"]) for i in range(layers)]
    mask = _tensor(given["attention_mask"])
    names = ("cls", "cls_before_pooler", "avg", "avg_top2", "avg_first_last")
    return {f"out_{how}": pool(states, mask, how).numpy() for how in names}


def queue(given: Arrays) -> Arrays:
    first = given["momentum_embeddings_0"]
    memory = Queue(int(given["neg_size"]), first.shape[1]).to(_tensor(first).dtype)
    found = {}
    for step in range(len(given["batch_sizes"])):
        found[f"queue_used_{step}"] = memory.rows().numpy()
        memory.push(_tensor(given[f"momentum_embeddings_{step}"]))
        found[f"queue_after_{step}"] = memory.rows().numpy()
    return found


class _Parameters(nn.Module):
    def __init__(self, arrays: list[np.ndarray]) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(_tensor(array)) for array in arrays])


def momentum_update(given: Arrays) -> Arrays:
    count = sum(name.startswith("online_") for name in given)
    slow = MomentumEncoder(_Parameters([given[f"momentum_before_{i}"] for i in range(count)]), float(given["momentum"]))
    slow.update(_Parameters([given[f"online_{i}"] for i in range(count)]))
    return {f"momentum_after_{i}": value.numpy() for i, value in enumerate(slow.module.values)}


def align_uniform(given: Arrays) -> Arrays:
    x, y = _tensor(given["x"], grad=True), _tensor(given["y"], grad=True)
    align = alignment(x, y, exponent=float(given["alpha"]))
    grad_x, grad_y = torch.autograd.grad(align, (x, y))
    uniform = uniformity(x, temperature=float(given["t"]))
    (grad_uniform,) = torch.autograd.grad(uniform, x)
    return {
        "align": align.detach().numpy(),
        "uniform": uniform.detach().numpy(),
        "grad_align_x": grad_x.numpy(),
        "grad_align_y": grad_y.numpy(),
        "grad_uniform_x": grad_uniform.numpy(),
    }


def spearman(given: Arrays) -> Arrays:
    scores = sts_spearman(given["pred"], given["gold"], given["subset"])
    return {
        "spearman_all": np.array(scores.all),
        "spearman_per_subset": np.array(list(scores.per_subset.values())),
        "spearman_mean": np.array(scores.mean),
        "spearman_wmean": np.array(scores.weighted_mean),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "esimcse/align_uniform": align_uniform,
    "esimcse/esimcse_loss": loss,
    "esimcse/momentum_update": momentum_update,
    "esimcse/pooler": pooler,
    "esimcse/queue": queue,
    "esimcse/repeat_bpe": repeat_bpe,
    "esimcse/repeat_word": repeat_word,
    "esimcse/simcse_loss": loss,
    "esimcse/spearman": spearman,
}
