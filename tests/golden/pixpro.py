"""PixPro: positive cells, propagation, both losses, momentum schedule, crop coordinates, and a whole step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from counterpoint.encoders.heads import conv_mlp
from counterpoint.encoders.propagation import Propagation
from counterpoint.losses.pixel_consistency import pixel_consistency, pixel_contrast, positive_cells
from counterpoint.memory.momentum import momentum_at
from counterpoint.systems.pixpro import PixPro
from counterpoint.views.located import LocatedViews, place_of

Arrays = Mapping[str, np.ndarray]
MLP = {"linear1": 0, "bn1": 1, "linear2": 3}
"""Layers of `conv_mlp` under the official names."""


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def _fill(module: nn.Module, given: Arrays, prefix: str) -> None:
    """Put the stored weights `<prefix><layer>_<weight or bias>` (or without a layer) into a module."""
    for name, parameter in _named(module, prefix).items():
        parameter.data = _tensor(given[name]).to(torch.float64)


def _named(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Stored name -> parameter."""
    if isinstance(module, nn.Sequential):
        layers = {f"{prefix}{name}_": module[place] for name, place in MLP.items()}
    else:
        layers = {prefix: module}
    return {f"{start}{name}": p for start, layer in layers.items() for name, p in layer.named_parameters()}


def pixpro_loss(given: Arrays) -> Arrays:
    query, key = _tensor(given["q"], grad=True), _tensor(given["k"], grad=True)
    places = _tensor(given["coord_q"]), _tensor(given["coord_k"])
    height, width = query.shape[2:]
    positives = positive_cells(*places, size=(height, width), ratio=float(given["pos_ratio"]))
    loss = pixel_consistency(query, key, positives)
    loss.backward()
    return {
        "pos_mask": positives.numpy().astype(np.uint8),
        "loss": loss.detach().numpy(),
        "grad_q": query.grad.numpy(),
        "grad_k": key.grad.numpy(),
    }


def ppm(given: Arrays) -> Arrays:
    x = _tensor(given["x"], grad=True)
    module = Propagation(
        x.shape[1],
        gamma=float(given["gamma"]),
        clamp=float(given["clamp_min"]),
        layers=int(given["transform_layers"]),
    ).to(torch.float64)
    _fill(module.transform, given, "w_")
    out = module(x)
    (out * _tensor(given["upstream"])).sum().backward()
    return {
        "out": out.detach().numpy(),
        "out_normalized": normalize(out, dim=1).detach().numpy(),
        "grad_x": x.grad.numpy(),
        **{f"grad_{name}": p.grad.numpy() for name, p in _named(module.transform, "w_").items()},
    }


class _Toy(nn.Module):
    """A 1 x 1 convolution without bias for a backbone."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False, dtype=torch.float64)
        self.conv.weight.data = _tensor(weight).to(torch.float64)

    def maps(self, images: Tensor) -> Tensor:
        return self.conv(images)


def _system(given: Arrays) -> PixPro:
    first = given["before_projector_linear1_weight"]
    dim, channels = len(given["before_projector_linear2_weight"]), first.shape[1]
    transform = 2 if "before_value_transform_linear1_weight" in given else 1
    system = PixPro(
        "test_resnet?size=32",
        view=LocatedViews(size=32),
        hidden=2,
        dim=dim,
        gamma=float(given["gamma"]),
        clamp=float(given["clamp_min"]),
        transform_layers=transform if "before_value_transform_weight" in given or transform == 2 else 0,
        ratio=float(given["pos_ratio"]),
        momentum=float(given["base_momentum"]),
        instance=float(given["instance_weight"]),
    ).to(torch.float64)
    system.encoder = _Toy(given["before_encoder_weight"])  # type: ignore[assignment]
    system.slow_encoder.module = _Toy(given["before_encoder_k_weight"]).requires_grad_(False)
    mlp = conv_mlp(channels, len(first), dim)
    system.projector = mlp.to(torch.float64)
    system.slow_projector.module = conv_mlp(channels, len(first), dim).to(torch.float64).requires_grad_(False)
    if system.instance:
        hidden = len(given["before_projector_instance_linear1_weight"])
        system.instance_projector = conv_mlp(channels, hidden, dim).to(torch.float64)
        slow = conv_mlp(channels, hidden, dim).to(torch.float64).requires_grad_(False)
        system.slow_instance_projector.module = slow
        system.predictor = conv_mlp(dim, len(given["before_predictor_linear1_weight"]), dim).to(torch.float64)
    return system


def _parts(system: PixPro) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Online and momentum modules under the official names."""
    online: dict[str, nn.Module] = {
        "value_transform_": system.propagate.transform,
        "encoder_": system.encoder.conv,  # type: ignore[dict-item]
        "projector_": system.projector,
    }
    slow: dict[str, nn.Module] = {
        "encoder_k_": system.slow_encoder.module.conv,  # type: ignore[dict-item]
        "projector_k_": system.slow_projector.module,
    }
    if system.instance:
        online |= {"projector_instance_": system.instance_projector, "predictor_": system.predictor}
        slow["projector_instance_k_"] = system.slow_instance_projector.module
    return online, slow


def pixpro_step(given: Arrays) -> Arrays:
    system = _system(given)
    online, slow = _parts(system)
    for name, module in {**online, **slow}.items():
        _fill(module, given, f"before_{name}")
    system.train()
    system.clock.progress = int(given["step"]) / int(given["total_steps"])
    system.before_step()
    batch = {"first": given["im1"], "second": given["im2"], "first_place": given["coord1"]}
    features = system.encode({key: _tensor(value) for key, value in {**batch, "second_place": given["coord2"]}.items()})
    terms = system.loss(features)
    loss = terms["pixel"] + (terms["instance"].total * terms["instance"].weight if "instance" in terms else 0.0)
    loss.backward()
    return {
        "effective_momentum": np.array(momentum_at(system.clock.progress, float(given["base_momentum"]))),
        "loss": loss.detach().numpy(),
        **{f"grad_{n}": p.grad.numpy() for name, module in online.items() for n, p in _named(module, name).items()},
        **{f"after_{n}": p.numpy() for name, module in slow.items() for n, p in _named(module, name).items()},
    }


def momentum_schedule(given: Arrays) -> Arrays:
    total, start = int(given["total_steps"]), float(given["base_momentum"])
    return {"momentum": np.array([momentum_at(int(step) / total, start) for step in np.atleast_1d(given["step"])])}


def crop_coords(given: Arrays) -> Arrays:
    places = []
    for (top, left, h, w, height, width), (across, down) in zip(
        given["top_left_hw_imgHW"].tolist(), given["flip_h_v"].tolist(), strict=True
    ):
        box = (left, top, left + w, top + h)
        places.append(place_of(box, width=width, height=height, flipped=bool(across), upside_down=bool(down)))
    return {"coords": np.array(places, dtype=np.float32)}


def pixcontrast_loss(given: Arrays) -> Arrays:
    x, y = _tensor(given["x"], grad=True), _tensor(given["y"])
    height, width = x.shape[2:]
    positives = positive_cells(
        _tensor(given["coord_x"]), _tensor(given["coord_y"]), size=(height, width), ratio=float(given["threshold"])
    )
    total, count = pixel_contrast(x, y, positives, temperature=float(given["temperature"]))
    loss = total / count
    loss.backward()
    return {
        "pos_mask": positives.numpy().astype(np.uint8),
        "loss": loss.detach().numpy(),
        "grad_x": x.grad.numpy(),
    }


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "pixpro/pixpro_loss": pixpro_loss,
    "pixpro/ppm": ppm,
    "pixpro/pixpro_step": pixpro_step,
    "pixpro/momentum_schedule": momentum_schedule,
    "pixpro/crop_coords": crop_coords,
    "pixpro/pixcontrast_loss": pixcontrast_loss,
}
