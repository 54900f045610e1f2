"""Contriever: data path, MoCo and in-batch losses, BERT with pooling, retrieval measures."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.text import TextEncoder
from counterpoint.evaluation.retrieval import retrieval_metrics
from counterpoint.losses import info_nce, moco_loss
from counterpoint.memory import MomentumEncoder, Queue
from counterpoint.views import text as views

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def random_crop(given: Arrays) -> Arrays:
    tokens = _tensor(given["tokens"])
    length = views.crop_length(len(tokens), float(given["ratio"]))
    crop = views.random_crop(tokens, length=length, start=int(given["start"]))
    return {"length": np.array(length), "crop": crop.numpy()}


def token_aug(given: Arrays) -> Arrays:
    tokens, uniforms, p = _tensor(given["tokens"]), given["uniforms"], float(given["p"])
    replacements = np.zeros(len(tokens), dtype=np.int64)
    draw = random.Random(int(given["replace_python_seed"]))
    low, high = int(given["replace_min"]), int(given["replace_max"])
    for place in np.flatnonzero(uniforms <= p):
        replacements[place] = draw.randint(low, high)
    draw = random.Random(int(given["shuffle_python_seed"]))
    places = draw.sample(range(len(tokens)), int((uniforms < p).sum()))
    order = list(range(len(places)))
    draw.shuffle(order)
    deleted = views.delete_tokens(tokens, uniforms, probability=p)
    framed = views.add_special_tokens(deleted, start=int(given["bos_id"]), end=int(given["eos_id"]))
    masked = views.mask_tokens(tokens, uniforms, probability=p, mask_id=int(given["mask_id"]))
    return {
        "deleted": deleted.numpy(),
        "deleted_with_bos_eos": framed.numpy(),
        "masked": masked.numpy(),
        "replaced": views.replace_tokens(tokens, uniforms, replacements, probability=p).numpy(),
        "shuffled": views.shuffle_tokens(tokens, places, order).numpy(),
    }


def example_batch(given: Arrays) -> Arrays:
    stream, length = _tensor(given["data"]), int(given["chunk_length"])
    draw, uniform = random.Random(int(given["seed"])), np.random.RandomState(int(given["seed"]))
    low, high, p = float(given["ratio_min"]), float(given["ratio_max"]), float(given["p_delete"])
    offset = draw.randint(0, length - 1)

    def crop(tokens: Tensor) -> Tensor:
        size = views.crop_length(len(tokens), draw.uniform(low, high))
        return views.random_crop(tokens, length=size, start=draw.randint(0, len(tokens) - size))

    def corrupt(tokens: Tensor) -> Tensor:
        kept = views.delete_tokens(tokens, uniform.rand(len(tokens)), probability=p)
        return views.add_special_tokens(kept, start=101, end=102)

    pairs: list[list[Tensor]] = [[], []]
    for index in range(int(given["n"])):
        tokens = views.chunk(stream, index, length=length, offset=offset)
        crops = [crop(tokens), crop(tokens)]
        for side, tokens in zip(pairs, crops, strict=True):
            side.append(corrupt(tokens))
    found = {
        "offset": np.array(offset),
        "dataset_len": np.array(views.chunk_count(len(stream), length=length, offset=offset)),
    }
    for name, side in zip("qk", pairs, strict=True):
        ids, mask = views.pad_tokens(side, pad_id=0)
        found |= {f"{name}_tokens": ids.numpy(), f"{name}_mask": mask.bool().numpy()}
    return found


def dataset_prob(given: Arrays) -> Arrays:
    return {"prob": views.source_probabilities(given["lengths"], float(given["coefficient"]))}


def _accuracy(logits: Tensor, targets: Tensor) -> np.ndarray:
    return 100 * (logits.argmax(dim=1) == targets).float().mean().numpy()


def moco(given: Arrays) -> Arrays:
    weight = _tensor(given["W_q"])
    query_encoder = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    query_encoder.weight.data.copy_(weight)
    key_start = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    key_start.weight.data.copy_(_tensor(given["W_k_before"]))
    slow = MomentumEncoder(key_start, float(given["momentum"]))
    queue = Queue(int(given["queue_size"]), len(weight)).to(weight.dtype)
    queue.push(_tensor(given["queue_before"]).T)
    temperature, smoothing = float(given["temperature"]), float(given["label_smoothing"])
    found: dict[str, np.ndarray] = {}
    for step in range(int(given["steps"])):
        query = query_encoder(_tensor(given[f"xq_{step}"]))
        slow.update(query_encoder)
        key = slow(_tensor(given[f"xk_{step}"]))
        query = normalize(query, dim=1) if given["norm_query"] else query
        key = normalize(key, dim=1) if given["norm_doc"] else key
        used = queue.rows()
        loss = moco_loss(query, key, used, label_smoothing=smoothing, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, query_encoder.weight)
        queue.push(key)
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ used.T], dim=1)
        found |= {
            f"loss_{step}": loss.detach().numpy(),
            f"grad_W_q_{step}": gradient.numpy(),
            f"W_k_after_{step}": slow.module.weight.clone().numpy(),
            f"queue_after_{step}": queue.storage.T.clone().numpy(),
            f"ptr_after_{step}": queue.pointer.reshape(1).clone().numpy(),
            f"accuracy_{step}": _accuracy(logits, torch.zeros(len(query))),
        }
    return found


def inbatch(given: Arrays) -> Arrays:
    q, k = _tensor(given["q"], grad=True), _tensor(given["k"], grad=True)
    query = normalize(q, dim=1) if given["norm_query"] else q
    keys = normalize(k, dim=1) if given["norm_doc"] else k
    loss = info_nce(
        query,
        keys[: len(query)],
        negatives=keys[len(query) :] if len(keys) > len(query) else None,
        label_smoothing=float(given["label_smoothing"]),
        temperature=float(given["temperature"]),
    )
    loss.backward()
    return {
        "loss": loss.detach().numpy(),
        "grad_q": q.grad.numpy(),
        "grad_k": k.grad.numpy(),
        "accuracy": _accuracy(query @ keys.T, torch.arange(len(query))),
    }


def _stored_encoder(given: Arrays, pooling: str) -> TextEncoder:
    """The toy BERT as a folder on disk, loaded as any local model is."""
    weights = {name.removeprefix("w."): _tensor(array) for name, array in given.items() if name.startswith("w.")}
    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=int(given["num_layers"]),
        num_attention_heads=int(given["num_heads"]),
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.weight"]),
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
        type_vocab_size=len(weights["embeddings.token_type_embeddings.weight"]),
        layer_norm_eps=float(given["layer_norm_eps"]),
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.BertModel(config).save_pretrained(folder)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(vocabulary - 5))]
        (Path(folder) / "vocab.txt").write_text("\n".join(words))
        transformers.BertTokenizer(str(Path(folder) / "vocab.txt")).save_pretrained(folder)
        encoder = TextEncoder(folder, pooling=pooling)
    encoder.double()
    encoder.model.load_state_dict(weights)
    return encoder.eval()


def bert_encoder(given: Arrays) -> Arrays:
    encoder = _stored_encoder(given, {"average": "mean"}.get(str(given["pooling"]), str(given["pooling"])))
    tokens = {"input_ids": _tensor(given["input_ids"]), "attention_mask": _tensor(given["attention_mask"])}
    embedding = encoder(tokens)
    embedding = normalize(embedding, dim=1) if given["normalize"] else embedding
    embedding.backward(_tensor(given["upstream_grad"]))
    parameters = dict(encoder.model.named_parameters())
    return {
        "last_hidden_state": encoder.hidden_states(tokens)[-1].detach().numpy(),
        "embedding": embedding.detach().numpy(),
        "grad_word_embeddings": parameters["embeddings.word_embeddings.weight"].grad.numpy(),
        "grad_query_weight_layer0": parameters["encoder.layer.0.attention.self.query.weight"].grad.numpy(),
    }


def retrieval(given: Arrays) -> Arrays:
    found = retrieval_metrics(_tensor(given["scores"]), _tensor(given["relevance"]), at=(1, 10, 100))
    return {name.replace("@", "_at_"): values.numpy() for name, values in found.items()}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "contriever/bert_encoder": bert_encoder,
    "contriever/dataset_prob": dataset_prob,
    "contriever/example_batch": example_batch,
    "contriever/inbatch": inbatch,
    "contriever/moco": moco,
    "contriever/random_crop": random_crop,
    "contriever/retrieval_metrics": retrieval,
    "contriever/token_aug": token_aug,
}
