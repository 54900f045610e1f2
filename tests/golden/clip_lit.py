"""CLIP-LIT: prompts, the text tower they pass, guidance, identity, ranking, and the illumination network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, cross_entropy, normalize

from counterpoint.encoders.guiding import clip_pixels, prompt_features
from counterpoint.encoders.illumination import IlluminationNet, relight
from counterpoint.enhancement import LOGIT_SCALE, Weights
from counterpoint.enhancement.enhancement import identity_distance
from counterpoint.losses import feature_distance, negative_probability, ranking_hinge
from counterpoint.views.image import CLIP_MEAN, CLIP_STD

Arrays = Mapping[str, np.ndarray]
TOY = SimpleNamespace(size=224, mean=CLIP_MEAN, std=CLIP_STD)
"""How the toy encoders of the README take their pictures."""


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def prompt_init(given: Arrays) -> Arrays:
    image, texts = _tensor(given["image_features"]), _tensor(given["text_features"], grad=True)
    guides = normalize(texts, dim=1)
    logits = LOGIT_SCALE * image @ guides.T
    loss = cross_entropy(logits, _tensor(given["labels"]))
    loss.backward()
    return {
        "logits": logits.detach().numpy(),
        "ce_loss": loss.detach().numpy(),
        "grad_text_features": texts.grad.numpy(),
        "prob_negative": negative_probability(image, guides.detach(), logit_scale=LOGIT_SCALE).numpy(),
    }


def _text_tower(given: Arrays) -> open_clip.CLIP:
    """A CLIP whose text tower has the stored weights; its image tower is never used."""
    context, width = given["positional_embedding"].shape
    layers = sum(name.endswith("ln_1.weight") for name in given)
    text = {"context_length": context, "vocab_size": 2, "width": width, "heads": int(given["heads"]), "layers": layers}
    image = {"image_size": 8, "layers": 1, "width": 8, "patch_size": 8, "head_width": 8}
    model = (
        open_clip.CLIP(given["text_projection"].shape[1], image, text, quick_gelu=True).double().requires_grad_(False)
    )
    for name in ("positional_embedding", "text_projection"):
        getattr(model, name).copy_(_tensor(given[name]))
    model.ln_final.weight.copy_(_tensor(given["ln_final_weight"]))
    model.ln_final.bias.copy_(_tensor(given["ln_final_bias"]))
    stored = {name.removeprefix("w.block"): _tensor(value) for name, value in given.items() if name.startswith("w.")}
    model.transformer.resblocks.load_state_dict(stored)
    return model


def prompt_text_encoder(given: Arrays) -> Arrays:
    prompts = _tensor(given["prompt_embedding"], grad=True)
    texts = prompt_features(_text_tower(given), prompts, int(given["eot_index"]))
    logits = LOGIT_SCALE * _tensor(given["image_features"]) @ normalize(texts, dim=1).T
    loss = cross_entropy(logits, _tensor(given["labels"]))
    loss.backward()
    return {
        "text_features": texts.detach().numpy(),
        "ce_loss": loss.detach().numpy(),
        "grad_prompt_embedding": prompts.grad.numpy(),
    }


def toy_features(images: Tensor, projection: np.ndarray) -> Tensor:
    """(B, E): the encoder of the README, from pictures in [0, 1]."""
    return adaptive_avg_pool2d(clip_pixels(images, TOY), 4).flatten(1) @ _tensor(projection)


def enhance_clip_loss(given: Arrays) -> Arrays:
    images = _tensor(given["images"], grad=True)
    features = toy_features(images, given["P"])
    guides = normalize(_tensor(given["text_features"]), dim=1)
    loss = negative_probability(normalize(features, dim=1), guides, logit_scale=LOGIT_SCALE).mean()
    loss.backward()
    return {
        "image_features": features.detach().numpy(),
        "loss": loss.detach().numpy(),
        "weighted_loss": (Weights().guidance * loss).detach().numpy(),
        "grad_images": images.grad.numpy(),
    }


def identity_loss(given: Arrays) -> Arrays:
    edited, original = _tensor(given["enhanced"], grad=True), _tensor(given["original"])
    distances = []
    for place, size in enumerate(given["pool_sizes"].tolist()):
        weight = _tensor(given[f"w{place}"])[:, :, None, None]
        maps = [torch.tanh(conv2d(avg_pool2d(clip_pixels(images, TOY), size), weight)) for images in (edited, original)]
        distances.append(feature_distance(*maps))
    rows = torch.stack(distances, dim=1)  # (B, 5)
    loss = identity_distance(rows, given["weights"].tolist())
    loss.backward()
    return {
        "stage_mse": rows.detach().numpy(),
        "loss": loss.detach().numpy(),
        "weighted_loss": (Weights().reconstruction * loss).detach().numpy(),
        "grad_enhanced": edited.grad.numpy(),
    }


def rank_loss(given: Arrays) -> Arrays:
    names = ["backlit", "mid1", "mid2", "welllit"]
    names = [names[0], *names[1 : int(given["num"]) - 1], names[3]]
    scores = {name: _tensor(given[f"score_{name}"], grad=True) for name in names}
    columns = torch.stack(list(scores.values()), dim=1)  # (B, num)
    loss = ranking_hinge(columns, large=float(given["margin_large"]), small=float(given["margin_small"]))
    loss.backward()
    return {
        "loss": loss.detach().numpy(),
        "weighted_loss": (Weights().ranking * loss).detach().numpy(),
        **{f"grad_{name}": score.grad.numpy() for name, score in scores.items()},
    }


def _official_names(net: IlluminationNet) -> dict[str, nn.Module]:
    """Layers under the names of the official network."""
    named: dict[str, nn.Module] = {
        "cond1": net.entry,
        "condx": net.widen,
        "condy": net.narrow,
        "cond_add1": net.exit,
        "PPM1.fuse.0": net.pyramid.fuse,
        "PPM1.fuse.1": net.pyramid.slope,
    }
    blocks = [block for part in (net.first, net.middle, net.last) for block in part]
    for number, block in enumerate(blocks, 1):
        named |= {f"ResidualBlock{number}.conv1": block.first, f"ResidualBlock{number}.conv2": block.second}
    for number, level in enumerate(net.pyramid.levels):
        named |= {f"PPM1.features.{number}.1": level[0], f"PPM1.features.{number}.2": level[1]}
    return named


@torch.no_grad()
def _enhancement_net(given: Arrays, *, reflect: bool) -> Arrays:
    net = IlluminationNet(given["q.cond1.weight"].shape[0]).double()
    for name, layer in _official_names(net).items():
        for kind, parameter in layer.named_parameters():
            key = f"{name}.{kind}"
            stored = given[f"p.{key}"] if f"p.{key}" in given else given[f"q.{key}"] * given[f"s.{key}"]
            parameter.copy_(_tensor(stored).to(torch.float64).view_as(parameter))
    images = _tensor(given["image"])
    light = net(images, reflect=reflect)
    return {"light_map": light.numpy(), "enhanced": relight(images, light).numpy()}


def enhancement_net_noreflect(given: Arrays) -> Arrays:
    return _enhancement_net(given, reflect=False)


def enhancement_net_reflect(given: Arrays) -> Arrays:
    return _enhancement_net(given, reflect=True)


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "clip_lit/prompt_init": prompt_init,
    "clip_lit/prompt_text_encoder": prompt_text_encoder,
    "clip_lit/enhance_clip_loss": enhance_clip_loss,
    "clip_lit/identity_loss": identity_loss,
    "clip_lit/rank_loss": rank_loss,
    "clip_lit/enhancement_net_noreflect": enhancement_net_noreflect,
    "clip_lit/enhancement_net_reflect": enhancement_net_reflect,
}
