"""A folder in timm's own format: `timm.create_model("local-dir:FOLDER", pretrained=True)`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.pair_towers import PairTowers
from counterpoint.export.source import Encode, Source
from counterpoint.storage import write_json, write_tensors

__all__ = ["image_parts", "read", "refuses", "usage", "write"]


def image_parts(source: Source) -> tuple[ImageEncoder, nn.Linear | None] | None:
    """The timm network of a run and the projection behind it, if it has one."""
    encoder = source.encoder
    if isinstance(encoder, ImageEncoder):
        return encoder, None
    if isinstance(encoder, ClipEncoder) and isinstance(encoder.towers, PairTowers):
        return encoder.towers.image, encoder.towers.image_projection
    return None


def refuses(source: Source) -> str | None:
    """Why a run cannot be written so."""
    return None if image_parts(source) else "its pictures are not encoded by a timm network"


def write(source: Source, folder: Path) -> None:
    """config.json and model.safetensors; a projection into a joint space becomes the classifier."""
    parts = image_parts(source)
    assert parts is not None
    encoder, projection = parts
    model = copy.deepcopy(encoder.model)
    if projection is not None:
        model.reset_classifier(projection.out_features)
        classifier = model.get_classifier()
        with torch.no_grad():
            classifier.weight.copy_(projection.weight)
            classifier.bias.zero_()
    preset: dict[str, Any] = {
        "input_size": [3, source.size, source.size],
        "mean": list(source.mean),
        "std": list(source.std),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": model.num_classes,
    }
    config = {
        "architecture": encoder.architecture,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "pretrained_cfg": preset,
    }
    default = timm.get_pretrained_cfg(encoder.architecture)
    if default is not None and default.fixed_input_size and encoder.size != default.input_size[-1]:
        config["model_args"] = {"img_size": encoder.size}
    if encoder.stride is not None:
        config["model_args"] = {"output_stride": encoder.stride}
    write_json(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", model.state_dict())


def read(source: Source, folder: Path) -> tuple[dict[str, Encode], str]:
    """The folder, loaded by timm."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return {"image": lambda inputs: model(inputs["images"])}, f"timm {timm.__version__}"


def usage(source: Source, folder: Path) -> str:
    """Lines that load it."""
    name = json.dumps(f"local-dir:{folder}")
    return f"import timm\n\nmodel = timm.create_model({name}, pretrained=True).eval()"
