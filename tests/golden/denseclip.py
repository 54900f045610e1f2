"""DenseCLIP: dense attention pool, context decoder, names behind contexts, score maps, and both auxiliary losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn

from counterpoint.encoders.attention_pool import attention_pool_tokens
from counterpoint.encoders.dense import Dense, pixel_text_scores
from counterpoint.encoders.prompting import ContextDecoder, DecoderShape, contextual_features
from counterpoint.losses import box_region_loss, pixel_cross_entropy
from counterpoint.losses.segmentation import box_regions, enlarged
from counterpoint.systems.denseclip import DenseCLIP

Arrays = Mapping[str, np.ndarray]


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def _weights(given: Arrays) -> dict[str, Tensor]:
    return {name[2:]: _tensor(value) for name, value in given.items() if name.startswith("w.")}


def attention_pool_dense(given: Arrays) -> Arrays:
    x = _tensor(given["x"], grad=True)
    dim, width = given["w.c_proj.weight"].shape
    pool = AttentionPool2d(int(given["spacial_dim"]), width, int(given["num_heads"]), dim).to(torch.float64)
    pool.load_state_dict(_weights(given))
    tokens = attention_pool_tokens(pool, x)
    whole, cells = tokens[:, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, x.shape[2:])
    ((whole * _tensor(given["upstream_global"])).sum() + (cells * _tensor(given["upstream_map"])).sum()).backward()
    return {
        "global_feat": whole.detach().numpy(),
        "feature_map": cells.detach().numpy(),
        "grad_x": x.grad.numpy(),
    }


def _decoder(given: Arrays) -> ContextDecoder:
    dim = given["w.memory_proj.0.weight"].shape[0]
    shape = DecoderShape(int(given["width"]), int(given["heads"]), int(given["layers"]), 0.1)
    decoder = ContextDecoder(dim, shape).to(torch.float64).eval()
    decoder.load_state_dict(_weights(given))
    return decoder


def context_decoder(given: Arrays) -> Arrays:
    text, visual = _tensor(given["text"], grad=True), _tensor(given["visual"], grad=True)
    found = _decoder(given)(text, visual)
    (found * _tensor(given["upstream"])).sum().backward()
    return {
        "text_diff": found.detach().numpy(),
        "grad_text": text.grad.numpy(),
        "grad_visual": visual.grad.numpy(),
    }


def _text_tower(given: Arrays) -> open_clip.CLIP:
    vocabulary, width = given["w.token_embedding.weight"].shape
    text = {
        "context_length": len(given["w.positional_embedding"]),
        "vocab_size": vocabulary,
        "width": width,
        "heads": int(given["heads"]),
        "layers": int(given["layers"]),
    }
    vision = {"image_size": 8, "patch_size": 8, "width": 8, "layers": 1, "head_width": 8}  # not used
    model = open_clip.CLIP(given["w.text_projection"].shape[1], vision, text, quick_gelu=True).to(torch.float64)
    found = model.load_state_dict(_weights(given), strict=False)
    assert not found.unexpected_keys and all(n.startswith(("visual.", "logit_")) for n in found.missing_keys)
    return model


def text_context_encoder(given: Arrays) -> Arrays:
    contexts = _tensor(given["contexts"], grad=True)
    found = contextual_features(_text_tower(given), _tensor(given["tokens"]), contexts)
    (found * _tensor(given["upstream"])).sum().backward()
    return {"text_embeddings": found.detach().numpy(), "grad_contexts": contexts.grad.numpy()}


class _Prompting(nn.Module):
    """As much of the system as adds to a text what it finds in the picture."""

    prompting = "post"
    texts = DenseCLIP.texts

    def __init__(self, given: Arrays) -> None:
        super().__init__()
        self.decoder, self.gamma = _decoder(given), nn.Parameter(_tensor(given["gamma"]))


def score_map(given: Arrays) -> Arrays:
    names, whole, cells = (
        _tensor(given[name], grad=True) for name in ("text_embeddings", "global_feat", "visual_embeddings")
    )
    system: Any = _Prompting(given)
    texts = system.texts(Dense([], whole, cells), names)
    scores = pixel_text_scores(cells, texts)
    (scores * _tensor(given["upstream"])).sum().backward()
    temperature = float(given["tau"])
    sharp = scores.detach() / temperature
    leaf = scores.detach().clone().requires_grad_()
    auxiliary = 0.4 * pixel_cross_entropy(leaf, _tensor(given["seg_label"]), temperature=temperature)
    auxiliary.backward()
    height, width = given["stage1_size"].tolist()
    return {
        "refined_text": texts.detach().numpy(),
        "score_map": scores.detach().numpy(),
        "stage4_concat": torch.cat([_tensor(given["stage4_feature"]), scores.detach()], dim=1).numpy(),
        "grad_text": names.grad.numpy(),
        "grad_global": whole.grad.numpy(),
        "grad_visual": cells.grad.numpy(),
        "grad_gamma": system.gamma.grad.numpy(),
        "det_score_map_stage4": sharp.numpy(),
        "det_score_map_stage1": enlarged(sharp, (height, width)).numpy(),
        "aux_loss": auxiliary.detach().numpy(),
        "grad_aux_score_map": leaf.grad.numpy(),
    }


def detection_seg_loss(given: Arrays) -> Arrays:
    scores = _tensor(given["score_map"], grad=True)
    boxes, labels = _tensor(given["boxes"]), _tensor(given["box_labels"])
    height, width = scores.shape[2:]
    stride = int(given["image_size"][0]) // height
    target, covered = box_regions(boxes, labels, classes=scores.shape[1], size=(height, width), stride=stride)
    loss = box_region_loss(scores, boxes, labels, stride=stride)
    loss.backward()
    return {
        "target": target.numpy().astype(np.uint8),
        "mask": covered.expand_as(target).numpy().astype(np.uint8),
        "loss": loss.detach().numpy(),
        "grad_score_map": scores.grad.numpy(),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "denseclip/attention_pool_dense": attention_pool_dense,
    "denseclip/context_decoder": context_decoder,
    "denseclip/text_context_encoder": text_context_encoder,
    "denseclip/score_map": score_map,
    "denseclip/detection_seg_loss": detection_seg_loss,
}
