"""A folder in transformers' own format: `AutoModel.from_pretrained(FOLDER)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.hub import quiet
from counterpoint.encoders.text import TextEncoder, pool
from counterpoint.encoders.transformers_towers import TransformersTowers
from counterpoint.export.source import Encode, Source
from counterpoint.storage import write_json

__all__ = ["load_text_model", "read", "refuses", "usage", "write", "write_text_model"]


def refuses(source: Source) -> str | None:
    """Why a run cannot be written so."""
    encoder = source.encoder
    if isinstance(encoder, TextEncoder):
        return None
    if isinstance(encoder, ClipEncoder) and isinstance(encoder.towers, TransformersTowers):
        return None
    return "its encoder is no transformers model; see `counterpoint export --help` for the other formats"


def write_text_model(encoder: TextEncoder, folder: Path) -> None:
    """Configuration, safetensors weights and tokenizer of a text encoder."""
    with quiet():
        encoder.model.save_pretrained(folder, safe_serialization=True)
        encoder.tokenizer.save_pretrained(folder)


def load_text_model(folder: Path) -> Any:
    """The model as transformers loads it."""
    with quiet():
        return transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()


def write(source: Source, folder: Path) -> None:
    """Model and tokenizer; of a CLIP-like model also how pictures are prepared."""
    encoder = source.encoder
    if isinstance(encoder, TextEncoder):
        write_text_model(encoder, folder)
        return
    assert isinstance(encoder, ClipEncoder)
    towers = encoder.towers
    assert isinstance(towers, TransformersTowers)
    with quiet():
        towers.model.save_pretrained(folder, safe_serialization=True)
        towers.tokenizer.save_pretrained(folder)
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": source.size},
        "do_center_crop": True,
        "crop_size": {"height": source.size, "width": source.size},
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(source.mean),
        "image_std": list(source.std),
        "resample": 3,
    }
    write_json(folder / "preprocessor_config.json", preprocessing)


def read(source: Source, folder: Path) -> tuple[dict[str, Encode], str]:
    """The folder, loaded by transformers."""
    checked_with, encoder = f"transformers {transformers.__version__}", source.encoder
    model = load_text_model(folder)
    if isinstance(encoder, TextEncoder):
        pooling = encoder.pooling

        def encode(inputs: Any) -> Any:
            states = model(**inputs, output_hidden_states=True).hidden_states
            return pool(states, inputs["attention_mask"], pooling)

        return {"text": encode}, f"{checked_with}, pooled with {pooling!r}"
    assert isinstance(encoder, ClipEncoder)
    hidden = {} if model.config.model_type == "siglip" else {"attention_mask": True}

    def encode_text(inputs: Any) -> Any:
        kept = {"input_ids": inputs["input_ids"]} | ({"attention_mask": inputs["attention_mask"]} if hidden else {})
        return model.get_text_features(**kept).pooler_output

    def encode_image(inputs: Any) -> Any:
        return model.get_image_features(pixel_values=inputs["images"]).pooler_output

    return {"image": encode_image, "text": encode_text}, checked_with


def usage(source: Source, folder: Path) -> str:
    """Lines that load it."""
    lines = [
        "from transformers import AutoModel, AutoTokenizer",
        "",
        f'model = AutoModel.from_pretrained("{folder}").eval()',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
    ]
    if isinstance(source.encoder, TextEncoder):
        lines.append(f"# the vector of a text is its hidden states pooled with {source.encoder.pooling!r}")
    return "\n".join(lines)
