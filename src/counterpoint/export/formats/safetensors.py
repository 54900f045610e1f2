"""Plain state dicts: the whole system, and each network under the names that its own library gives the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import Tensor, nn

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.open_clip_towers import OpenClipTowers
from counterpoint.encoders.text import pool
from counterpoint.encoders.transformers_towers import TransformersTowers
from counterpoint.export.formats.open_clip import towers_of
from counterpoint.export.formats.sentence_transformers import text_parts
from counterpoint.export.formats.timm import image_parts
from counterpoint.export.source import Encode, Source
from counterpoint.storage import read_tensors, write_json, write_tensors

__all__ = ["read", "refuses", "usage", "write"]


def refuses(source: Source) -> str | None:
    """Every encoder has a state dict."""
    return None


def _networks(source: Source) -> dict[str, nn.Module]:
    """File name -> network of another library, and our projections."""
    found: dict[str, nn.Module] = {}
    image, text = image_parts(source), text_parts(source)
    if image is not None:
        found["image"] = image[0].model
    if text is not None:
        found["text"] = text[0].model
    if image is not None and image[1] is not None:
        found["image_projection"] = image[1]
    if text is not None and text[1] is not None:
        found["text_projection"] = text[1]
    if not found:
        assert isinstance(source.encoder, ClipEncoder)
        found["clip"] = source.encoder.towers.get_submodule("model")
    return found


def write(source: Source, folder: Path) -> None:
    """model.safetensors of the whole system; image, text, projections or clip.safetensors of the networks."""
    write_tensors(folder / "model.safetensors", source.system.state_dict())
    for name, network in _networks(source).items():
        write_tensors(folder / f"{name}.safetensors", network.state_dict())
    facts = {"size": source.size, "mean": list(source.mean), "std": list(source.std)}
    image, text = image_parts(source), text_parts(source)
    if image is not None:
        facts |= {"architecture": image[0].architecture}
    if text is not None:
        facts |= {"pooling": text[0].pooling, "max_length": text[0].max_length}
        text[0].model.config.save_pretrained(folder / "text")
        text[0].tokenizer.save_pretrained(folder / "text")
    write_json(folder / "config.json", facts)


def _loaded(model: nn.Module, path: Path) -> Any:
    model.load_state_dict(read_tensors(path))
    return model.eval()


def read(source: Source, folder: Path) -> tuple[dict[str, Encode], str]:
    """Fresh networks of the other libraries with the stored tensors, nothing left over."""
    _check_whole(source, folder)
    image, text = image_parts(source), text_parts(source)
    found: dict[str, Encode] = {}
    if image is not None:
        fresh = timm.create_model(image[0].architecture, num_classes=0, **_size(image[0]))
        network = _loaded(fresh, folder / "image.safetensors")
        last = _projection(folder / "image_projection.safetensors")
        found["image"] = lambda inputs: last(network(inputs["images"]))
    if text is not None:
        found["text"] = _text(text[0], folder)
    if not found:
        found = _clip(source, folder)
    return found, "fresh networks of timm, transformers and open_clip with these state dicts, strictly loaded"


def _check_whole(source: Source, folder: Path) -> None:
    """The whole system's tensors are equal, bit by bit."""
    stored, own = read_tensors(folder / "model.safetensors"), source.system.state_dict()
    changed = [name for name in own if name not in stored or not torch.equal(stored[name], own[name].cpu())]
    if changed or len(stored) != len(own):
        raise ValueError(f"model.safetensors does not hold what was written: {changed[:1]}")


def _size(encoder: Any) -> dict[str, Any]:
    default = timm.get_pretrained_cfg(encoder.architecture)
    other = default is not None and default.fixed_input_size and encoder.size != default.input_size[-1]
    return {"img_size": encoder.size} if other else {}


def _projection(path: Path) -> Any:
    """What stands behind a network: a linear layer, or nothing."""
    if not path.is_file():
        return lambda vectors: vectors
    weights = read_tensors(path)
    return lambda vectors: nn.functional.linear(vectors, weights["weight"], weights.get("bias"))


def _text(encoder: Any, folder: Path) -> Encode:
    config = transformers.AutoConfig.from_pretrained(folder / "text", local_files_only=True)
    fresh = transformers.AutoModel.from_config(config, trust_remote_code=False)
    if getattr(fresh, "pooler", None) is not None:
        fresh.pooler = None  # ours is left behind; its outputs are never used
    model = _loaded(fresh, folder / "text.safetensors")
    last = _projection(folder / "text_projection.safetensors")

    def encode(inputs: Any) -> Tensor:
        states = model(**inputs, output_hidden_states=True).hidden_states
        return last(pool(states, inputs["attention_mask"], encoder.pooling))

    return encode


def _clip(source: Source, folder: Path) -> dict[str, Encode]:
    encoder = source.encoder
    assert isinstance(encoder, ClipEncoder)
    towers, path = towers_of(source), folder / "clip.safetensors"
    if towers is not None:
        model = _loaded(OpenClipTowers(towers.config, towers.tokenizer).model, path)
        return {
            "image": lambda inputs: model.encode_image(inputs["images"]),
            "text": lambda inputs: model.encode_text(inputs["input_ids"]),
        }
    assert isinstance(encoder.towers, TransformersTowers)
    fresh = transformers.AutoModel.from_config(encoder.towers.model.config, trust_remote_code=False)
    other = TransformersTowers(_loaded(fresh, path), encoder.towers.tokenizer, encoder.towers.preprocess)
    return {"image": lambda inputs: other.encode_image(inputs["images"]), "text": other.encode_text}


def usage(source: Source, folder: Path) -> str:
    """Lines that load it."""
    name = next(iter(_networks(source)))
    return (
        "from safetensors.torch import load_file\n\n"
        f'weights = load_file("{folder}/{name}.safetensors")  # names as the network\'s own library has them'
    )
