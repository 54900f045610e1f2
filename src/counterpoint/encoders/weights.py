"""Weights from files: safetensors only, nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

__all__ = ["load_weights", "read_safetensors"]


def read_safetensors(path: str | Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a safetensors file whose names start with `prefix`, under the rest of their names.

    Raises:
        ValueError: missing or damaged file, or nothing under the prefix.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: weights are read from safetensors files only")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name[len(prefix) :]: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if not tensors:
        raise ValueError(f"{path} holds no weights whose names start with {prefix!r}")
    return tensors


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str, *, strict: bool = True) -> None:
    """Copy tensors into a module, in the module's own dtype.

    Raises:
        ValueError: a name or shape that does not fit; says which and how many.
    """
    own = module.state_dict()
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    missing = [name for name in own if name not in tensors]
    extra = [name for name in tensors if name not in own]
    if wrong or (strict and (missing or extra)):
        found = [f"shape of {wrong[0]}"] if wrong else []
        found += [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        found += [f"{len(extra)} unknown (first: {extra[0]})"] if extra else []
        raise ValueError(f"the weights of {source} do not fit this architecture: {'; '.join(found)}")
    module.load_state_dict(dict(tensors), strict=False)
