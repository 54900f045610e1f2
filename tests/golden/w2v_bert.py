"""w2v-BERT: contrast with given distractors, quantiser, the three losses together, span masks, a Conformer block."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.conformer import ConformerBlock, relative_positions
from counterpoint.encoders.quantiser import Codebook, GumbelQuantiser
from counterpoint.losses import code_diversity, masked_contrast, masked_prediction
from counterpoint.losses.masked_frames import code_perplexity, diversity_at
from counterpoint.systems.w2v_bert import W2vBERT
from counterpoint.training.terms import as_terms, combine
from counterpoint.views.audio import Masking, span_mask

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def _contrast(given: Arrays, context: Tensor, quantised: Tensor) -> Tensor:
    """(B,) sums; distractors are stored as places in all recordings one after another."""
    frames = quantised.shape[1]
    _, codes = np.unique(given["quantized"].reshape(-1, quantised.shape[2]), axis=0, return_inverse=True)
    mask = _tensor(given["mask"])
    own = torch.from_numpy(given["negative_indices"]) - frames * torch.arange(len(quantised))[:, None, None]
    return masked_contrast(
        normalize(context, dim=2),
        normalize(quantised, dim=2),
        torch.from_numpy(codes.reshape(*quantised.shape[:2], 1)),
        torch.where(mask[..., None], own, 0),  # other frames are not read, and theirs may lie in other recordings
        mask,
        temperature=float(given["temperature"]),
    )


def contrastive(given: Arrays) -> Arrays:
    context, quantised = _tensor(given["context"], grad=True), _tensor(given["quantized"], grad=True)
    total = _contrast(given, context, quantised).sum()
    total.backward()
    codes = int(given["num_groups"]) * int(given["num_codes"])
    diversity = int(given["mask"].sum()) * diversity_at(_tensor(given["perplexity"]), codes)
    return {
        "contrastive_sum": total.detach().numpy(),
        "diversity": diversity.numpy(),
        "loss_sum": (total.detach() + float(given["diversity_weight"]) * diversity).numpy(),
        "grad_quantized": quantised.grad.numpy(),
        "grad_context": context.grad.numpy(),
    }


def _perplexity(usage: Tensor, mask: Tensor) -> Tensor:
    """Of (B, T, G, V) over hidden frames."""
    return code_perplexity((usage * mask[..., None, None]).sum(dim=1), mask.sum(dim=1))


def quantizer(given: Arrays) -> Arrays:
    x, mask = _tensor(given["x"], grad=True), _tensor(given["mask"])
    groups, codes = int(given["num_groups"]), int(given["num_codes"])
    vectors = _tensor(given["codevectors"])[0]  # (G V, D / G)
    module = GumbelQuantiser(x.shape[2], Codebook(groups, codes, groups * vectors.shape[1]))
    module.scores.weight.data = _tensor(given["weight_proj_weight"])
    module.scores.bias.data = _tensor(given["weight_proj_bias"])
    module.vectors.data = vectors.unflatten(0, (groups, codes)).clone()
    plain = module(x)
    chosen = torch.nn.functional.one_hot(plain.codes, codes).to(x.dtype)
    drawn = module(x, _tensor(given["gumbel"]), temperature=float(given["tau"]))
    perplexity = _perplexity(drawn.probabilities, mask)
    (of_perplexity,) = torch.autograd.grad(perplexity, module.scores.weight, retain_graph=True)
    (drawn.vectors * _tensor(given["cotangent"])).sum().backward()
    return {
        "eval_quantized": plain.vectors.detach().numpy(),
        "eval_perplexity": _perplexity(chosen, mask).numpy(),
        "eval_ids": plain.codes.numpy(),
        "train_quantized": drawn.vectors.detach().numpy(),
        "train_perplexity": perplexity.detach().numpy(),
        "grad_x": x.grad.numpy(),
        "grad_weight_proj_weight": module.scores.weight.grad.numpy(),
        "grad_codevectors": module.vectors.grad.flatten(0, 1)[None].numpy(),
        "grad_perplexity_weight_proj_weight": of_perplexity.numpy(),
    }


def combined(given: Arrays) -> Arrays:
    context, quantised = _tensor(given["context"], grad=True), _tensor(given["quantized"], grad=True)
    logits, mask = _tensor(given["mlm_logits"], grad=True), _tensor(given["mask"])
    usage, codes = _tensor(given["soft_probs"])[:, :, None], logits.shape[2]
    beta, gamma, alpha = (float(given[name]) for name in ("beta", "gamma", "alpha"))
    system = W2vBERT(
        "conformer:2x8x2?kernel=3",
        contrastive_layers=1,
        codebook=Codebook(1, codes, 8),
        masking=Masking(distractors=given["negative_indices"].shape[2]),
        contrast_dim=8,
        contrastive_weight=beta,
        diversity_weight=beta * alpha,
        prediction_weight=gamma,
    )
    features = {
        "contrastive": _contrast(given, context, quantised),
        "prediction": masked_prediction(logits[:, :, None], _tensor(given["target_ids"])[..., None], mask),
        "count": mask.sum(dim=1),
        "usage": (usage * mask[..., None, None]).sum(dim=1),
    }
    features["chosen"] = features["usage"]
    found = combine(as_terms(system.loss(features), system, len(mask)))
    found.loss.backward()
    assert torch.equal(found.parts["diversity"], code_diversity(features["usage"], features["count"]))
    return {
        "contrastive": found.parts["contrastive"].numpy(),
        "diversity": found.parts["diversity"].numpy(),
        "perplexity": _perplexity(usage, mask).numpy(),
        "mlm": found.parts["prediction"].numpy(),
        "loss": found.loss.detach().numpy(),
        "grad_quantized": quantised.grad.numpy(),
        "grad_context": context.grad.numpy(),
        "grad_mlm_logits": logits.grad.numpy(),
    }


def _runs(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return edges[1::2] - edges[::2]


def mask_spans(given: Arrays) -> Arrays:
    fractions, means, least = [], [], []
    names = ("batch", "seq_len", "mask_prob", "span", "min_spans", "num_rows")
    for batch, length, probability, span, spans, rows in zip(*(given[name] for name in names), strict=True):
        rng = np.random.default_rng(0)
        masks = []
        for _ in range(-(-int(rows) // int(batch))):
            epsilon = rng.random()  # one for a batch, as in the reference
            drawn = {"probability": float(probability), "span": int(span), "least": int(spans), "epsilon": epsilon}
            masks += [span_mask(int(length), rng=rng, **drawn) for _ in range(int(batch))]
        lengths = np.concatenate([_runs(mask) for mask in masks])
        fractions.append(np.mean(masks))
        means.append(lengths.mean())
        least.append(lengths.min())
    return {"fraction_mean": np.array(fractions), "run_len_mean": np.array(means), "run_len_min": np.array(least)}


_LAYERS = {
    "ffn1_layer_norm": "first.0",
    "ffn1.intermediate_dense": "first.1",
    "ffn1.output_dense": "first.4",
    "self_attn_layer_norm": "attention_norm",
    "self_attn.linear_q": "attention.query",
    "self_attn.linear_k": "attention.key",
    "self_attn.linear_v": "attention.value",
    "self_attn.linear_out": "attention.out",
    "conv_module.layer_norm": "convolution.norm",
    "conv_module.pointwise_conv1": "convolution.widen",
    "conv_module.depthwise_conv": "convolution.depthwise",
    "conv_module.batch_norm": "convolution.frame_norm",
    "conv_module.pointwise_conv2": "convolution.narrow",
    "ffn2_layer_norm": "second.0",
    "ffn2.intermediate_dense": "second.1",
    "ffn2.output_dense": "second.4",
    "final_layer_norm": "norm",
}
"""Stored name of a layer -> ours."""


def conformer_layer(given: Arrays) -> Arrays:
    x = _tensor(given["x"], grad=True)
    inner = len(given["w.ffn1.intermediate_dense.weight"])
    kernel = given["w.conv_module.depthwise_conv.weight"].shape[2]
    block = ConformerBlock(x.shape[2], int(given["num_heads"]), inner, kernel, relative=False).double()
    state = block.state_dict()
    for name, array in given.items():
        if name.startswith("w."):
            layer, _, part = name.removeprefix("w.").rpartition(".")
            state[f"{_LAYERS[layer]}.{part}"] = _tensor(array).double()
    block.load_state_dict(state)
    for module in block.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = float(given["ln_eps"])
        if isinstance(module, nn.BatchNorm1d):
            module.eps = float(given["bn_eps"])
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    out = block.eval()(x, mask, relative_positions(x.shape[1], x.shape[2], like=x))
    (out * _tensor(given["cotangent"])).sum().backward()
    return {"out": out.detach().numpy(), "grad_x": x.grad.numpy()}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "w2v_bert/contrastive": contrastive,
    "w2v_bert/quantizer": quantizer,
    "w2v_bert/combined": combined,
    "w2v_bert/mask_spans": mask_spans,
    "w2v_bert/conformer_layer": conformer_layer,
}
