"""ONNX graphs with a free batch size: image.onnx and text.onnx, checked by onnxruntime."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.image import ImageEncoder
from counterpoint.encoders.open_clip_towers import OpenClipTowers
from counterpoint.encoders.pair_towers import PairTowers
from counterpoint.encoders.text import TextEncoder
from counterpoint.export.source import Encode, Source
from counterpoint.storage import write_json

__all__ = ["read", "refuses", "usage", "write"]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def refuses(source: Source) -> str | None:
    """Why a run cannot be written so."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    return f"it needs {', '.join(missing)}: pip install 'counterpoint[export]'" if missing else None


class _Image(nn.Module):
    """Pictures (N, 3, s, s) -> (N, D), without what only training needs."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        encoder = self.encoder
        if isinstance(encoder, ImageEncoder):
            return encoder.model(images)
        assert isinstance(encoder, ClipEncoder)
        if isinstance(encoder.towers, PairTowers):
            return encoder.towers.image_projection(encoder.towers.image.model(images))
        return encoder.towers.encode_image(images)


class _Text(nn.Module):
    """Tokens (N, L) -> (N, D)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        encoder = self.encoder
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask}
        if isinstance(encoder, TextEncoder):
            return encoder(tokens)
        assert isinstance(encoder, ClipEncoder)
        if isinstance(encoder.towers, OpenClipTowers):
            return encoder.towers.model.encode_text(input_ids)  # ours skips padding, which depends on the values
        return encoder.towers.encode_text(tokens)


def write(source: Source, folder: Path) -> None:
    """One graph a tower, the tokenizer, and how pictures are prepared."""
    for name, tower in source.towers.items():
        module = (_Image if name == "image" else _Text)(source.encoder).eval()
        _write_graph(module, tower.inputs, folder / f"{name}.onnx", free_length=_free_length(source))
    if "image" in source.towers:
        facts = {"size": source.size, "mean": list(source.mean), "std": list(source.std), "range": [0, 1]}
        write_json(folder / "preprocessing.json", facts)
    tokenizer = _tokenizer(source)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / "tokenizer")


def _free_length(source: Source) -> bool:
    """Whether texts may have any length; open_clip and SigLIP pad all to one."""
    encoder = source.encoder
    return isinstance(encoder, TextEncoder) or (
        isinstance(encoder, ClipEncoder) and isinstance(encoder.towers, PairTowers)
    )


def _tokenizer(source: Source) -> Any:
    encoder = source.encoder
    if isinstance(encoder, TextEncoder):
        return encoder.tokenizer
    towers = getattr(encoder, "towers", None)
    found = towers.text.tokenizer if isinstance(towers, PairTowers) else getattr(towers, "tokenizer", None)
    return found if hasattr(found, "save_pretrained") else None


def _write_graph(module: nn.Module, inputs: dict[str, Tensor], path: Path, *, free_length: bool) -> None:
    """Trace two of the inputs with a free batch dimension."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    example = {name: value[:2].contiguous() for name, value in inputs.items()}
    length = torch.export.Dim("length", min=2, max=_longest(module))
    shapes: dict[str, dict[int, Any]] = {}
    for name, value in example.items():
        shapes[name] = {0: batch, 1: length} if value.dim() == 2 and free_length else {0: batch}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        torch.onnx.export(
            module,
            args=(),
            kwargs=example,
            f=str(path),
            input_names=list(example),
            output_names=["vectors"],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _longest(module: nn.Module) -> int:
    encoder: Any = module.encoder
    if isinstance(encoder, ClipEncoder):
        encoder = getattr(encoder.towers, "text", encoder)
    return int(getattr(encoder, "max_length", 512))


def read(source: Source, folder: Path) -> tuple[dict[str, Encode], str]:
    """The graphs, run by onnxruntime on batches of several sizes."""
    import onnxruntime

    found = {name: _session(folder / f"{name}.onnx", onnxruntime) for name in source.towers}
    return found, f"onnxruntime {onnxruntime.__version__}"


def _session(path: Path, onnxruntime: Any) -> Encode:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def encode(inputs: Any) -> Tensor:
        rows = len(next(iter(inputs.values())))
        parts = []
        for start, end in ((0, 1), (1, rows)):  # a batch of one, and one of all the others
            values = {name: value[start:end].numpy() for name, value in inputs.items()}
            parts.append(torch.from_numpy(session.run(["vectors"], values)[0]))
        return torch.cat(parts)

    return encode


def usage(source: Source, folder: Path) -> str:
    """Lines that load it."""
    name, tower = next(iter(source.towers.items()))
    inputs = ", ".join(f'"{key}": {key}' for key in tower.inputs)
    return (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{folder / name}.onnx")\n'
        f'vectors = session.run(["vectors"], {{{inputs}}})[0]'
    )
