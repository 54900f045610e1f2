"""A folder in open_clip's own format: `open_clip.create_model_and_transforms("local-dir:FOLDER")`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import open_clip

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.open_clip_towers import CONFIG, MERGES, WEIGHTS, OpenClipTowers
from counterpoint.export.source import Encode, Source
from counterpoint.storage import write_json, write_tensors

__all__ = ["read", "refuses", "towers_of", "usage", "write"]


def towers_of(source: Source) -> OpenClipTowers | None:
    """The open_clip model of a run."""
    encoder = source.encoder
    if isinstance(encoder, ClipEncoder) and isinstance(encoder.towers, OpenClipTowers):
        return encoder.towers
    return None


def refuses(source: Source) -> str | None:
    """Why a run cannot be written so."""
    return None if towers_of(source) else "its encoder is no open_clip model"


def write(source: Source, folder: Path) -> None:
    """open_clip_config.json, open_clip_model.safetensors, and tokenizer files that open_clip does not have."""
    towers = towers_of(source)
    assert towers is not None
    config = dict(towers.config)
    stored = dict(config.get("preprocess_cfg") or {})
    config["preprocess_cfg"] = stored | {"mean": list(source.mean), "std": list(source.std)}
    towers.save_assets(folder)
    write_json(folder / CONFIG, config)
    tokenizer = folder / "tokenizer"
    if tokenizer.is_dir():  # open_clip looks for its files beside the weights
        for path in tokenizer.iterdir():
            shutil.move(str(path), str(folder / path.name))
        tokenizer.rmdir()
    write_tensors(folder / WEIGHTS, towers.model.state_dict())


def read(source: Source, folder: Path) -> tuple[dict[str, Encode], str]:
    """The folder, loaded by open_clip."""
    model = open_clip.create_model(f"local-dir:{folder}", device="cpu").eval()

    def encode_image(inputs: Any) -> Any:
        return model.encode_image(inputs["images"])

    def encode_text(inputs: Any) -> Any:
        return model.encode_text(inputs["input_ids"])

    return {"image": encode_image, "text": encode_text}, f"open_clip {open_clip.__version__}"


def usage(source: Source, folder: Path) -> str:
    """Lines that load it."""
    lines = [
        "import open_clip",
        "",
        f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")',
    ]
    towers = towers_of(source)
    if towers is not None and towers.merges is not None:
        context = towers.config["model_cfg"]["text_cfg"].get("context_length", 77)
        lines.append(f'tokenizer = open_clip.SimpleTokenizer("{folder / MERGES}", context_length={context})')
    else:
        lines.append(f'tokenizer = open_clip.get_tokenizer("local-dir:{folder}")')
    return "\n".join(lines)
