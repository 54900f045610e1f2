"""Models as arguments: a run directory or an object; what identifies its weights and its preprocessing."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoint.run import Run, load
from counterpoint.system import Estimator

__all__ = ["Model", "describe_preprocessing", "open_model", "weights_checksum"]


class Model(NamedTuple):
    """A model that was given as a path or as an object.

    Attributes:
        system: the loaded system or fitted classifier.
        path: its run directory, absolute; None for an object that was built in memory.
        run: the run it was loaded from.
    """

    system: Any
    path: Path | None
    run: Run | None

    def describe(self) -> dict[str, Any]:
        """What a score or a table has to remember of it: JSON values."""
        configured = self.run.config.get("system", {}) if self.run is not None else {}
        return {
            "path": None if self.path is None else str(self.path),
            "checksum": weights_checksum(self.system),
            "system": configured.get("name") or type(self.system).__name__,
            "arguments": configured.get("arguments"),
        }


def open_model(model: Any, *, device: str | torch.device | None = None) -> Model:
    """The model behind a path, a `Run` or an object.

    Args:
        model: run directory, `Run`, system or fitted classifier.
        device: where it computes; None uses a GPU when there is one for models that are loaded here.

    Raises:
        ValueError: the path is no run directory.
        TypeError: neither a path nor a model.
    """
    if isinstance(model, str | Path | Run):
        run = model if isinstance(model, Run) else Run(Path(model).expanduser())
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return Model(load(run, device=place), run.path.resolve(), run)
    if not any(hasattr(model, name) for name in ("embed", "classify", "transcribe", "segment", "enhance", "detect")):
        raise TypeError(f"model must be a run directory or a system, got {type(model).__name__}")
    if device is not None and isinstance(model, torch.nn.Module):
        model.to(device)
    return Model(model, None, None)


def weights_checksum(model: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights: equal for a run and the loaded object."""
    total = hashlib.sha256()
    for name, tensor in sorted(_tensors(model).items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _tensors(model: Any, prefix: str = "") -> Mapping[str, Tensor]:
    """Tensors of a module, of an estimator, or of an object that holds such."""
    if isinstance(model, torch.nn.Module):
        return {prefix + name: value for name, value in model.state_dict().items()}
    if isinstance(model, Estimator):
        return {prefix + name: value for name, value in model.state()[0].items()}
    found: dict[str, Tensor] = {}
    for name, value in vars(model).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, torch.nn.Module | Estimator):
            found |= _tensors(value, f"{prefix}{name}.")
    return found


def describe_preprocessing(model: Any) -> Any:
    """JSON values that tell how rows are turned into inputs: class and settings of `preprocess()`."""
    preprocess = getattr(model, "preprocess", None)
    if preprocess is None:
        return None
    return _describe(preprocess() if callable(preprocess) else preprocess)


def _describe(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return {"call": _describe(value.func), "arguments": _describe([*value.args, dict(value.keywords)])}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, Mapping):
        return {str(name): _describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if inspect.ismethod(value):
        return {"method": value.__qualname__, "of": _describe(value.__self__)}
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    settings = {name: item for name, item in vars(value).items()} if hasattr(value, "__dict__") else {}
    plain = {
        name: item for name, item in settings.items() if item is None or isinstance(item, str | bool | int | float)
    }
    return {"class": type(value).__qualname__, **plain}
