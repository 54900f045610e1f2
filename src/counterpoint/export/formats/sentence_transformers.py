"""A folder in the layout of sentence-transformers: `SentenceTransformer(FOLDER)`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.hub import quiet
from counterpoint.encoders.pair_towers import PairTowers
from counterpoint.encoders.text import TextEncoder, pool
from counterpoint.export.formats.transformers import load_text_model, write_text_model
from counterpoint.export.source import Encode, Source
from counterpoint.storage import read_json, read_tensors, write_json, write_tensors

__all__ = ["read", "refuses", "text_parts", "usage", "write"]

_POOLINGS = {"mean": "mean_tokens", "avg": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
_POOLINGS["cls_before_pooler"] = "cls_token"
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def text_parts(source: Source) -> tuple[TextEncoder, nn.Linear | None] | None:
    """The text encoder of a run and the projection behind it, if it has one."""
    encoder = source.encoder
    if isinstance(encoder, TextEncoder):
        return encoder, None
    if isinstance(encoder, ClipEncoder) and isinstance(encoder.towers, PairTowers):
        return encoder.towers.text, encoder.towers.text_projection
    return None


def refuses(source: Source) -> str | None:
    """Why a run cannot be written so."""
    parts = text_parts(source)
    if parts is None:
        return "its texts are not encoded by a transformers text encoder"
    if parts[0].pooling not in _POOLINGS:
        return f"sentence-transformers has no pooling {parts[0].pooling!r}; export it as 'transformers'"
    return None


def write(source: Source, folder: Path) -> None:
    """The transformers model, its pooling, and a projection as a dense layer."""
    parts = text_parts(source)
    assert parts is not None
    encoder, projection = parts
    write_text_model(encoder, folder)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": encoder.max_length, "do_lower_case": False})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    chosen = _POOLINGS[encoder.pooling]
    pooling: dict[str, Any] = {"word_embedding_dimension": encoder.dim}
    pooling |= {f"pooling_mode_{mode}": mode == chosen for mode in _MODES}
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", pooling | {"include_prompt": True})
    if projection is not None:
        modules.append(("2_Dense", "Dense"))
        _write_dense(projection, folder / "2_Dense")
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    settings: dict[str, Any] = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)


def _write_dense(projection: nn.Linear, folder: Path) -> None:
    folder.mkdir()
    config = {
        "in_features": projection.in_features,
        "out_features": projection.out_features,
        "bias": projection.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", {f"linear.{k}": value for k, value in projection.state_dict().items()})


def read(source: Source, folder: Path) -> tuple[dict[str, Encode], str]:
    """The folder, loaded by sentence-transformers, else read the way it is documented."""
    if importlib.util.find_spec("sentence_transformers") is None:
        found = "transformers and the pooling of 1_Pooling/config.json (sentence-transformers is not installed)"
        return {"text": _read_by_hand(folder)}, found
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(inputs: Any) -> Any:
        return model.encode(source.texts, convert_to_tensor=True, show_progress_bar=False)

    return {"text": encode}, f"sentence-transformers {importlib.metadata.version('sentence-transformers')}"


def _read_by_hand(folder: Path) -> Encode:
    model = load_text_model(folder)
    config = read_json(folder / "1_Pooling" / "config.json")
    names = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}
    how = next(name for mode, name in names.items() if config[f"pooling_mode_{mode}"])
    dense = folder / "2_Dense" / "model.safetensors"
    weights = read_tensors(dense) if dense.is_file() else None

    def encode(inputs: Any) -> torch.Tensor:
        vectors = pool([model(**inputs).last_hidden_state], inputs["attention_mask"], how)
        if weights is None:
            return vectors
        return nn.functional.linear(vectors, weights["linear.weight"], weights.get("linear.bias"))

    return encode


def usage(source: Source, folder: Path) -> str:
    """Lines that load it."""
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{folder}")\nvectors = model.encode(["a red door"])'
    )
