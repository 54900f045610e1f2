"""Device and precision through Fabric, one device in each process; `distributed.py` joins the processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor

from counterpoint.training.settings import TrainingSettings

__all__ = ["claim_device", "make_fabric", "pick_device", "to_device"]


def pick_device(name: str = "auto") -> torch.device:
    """The device a name stands for; "auto" takes this process's GPU when there is one.

    Raises:
        ValueError: an unknown device, or CUDA where there is none.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but torch finds no CUDA device here: use device=cpu")
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", local)
    return device


def claim_device(name: str) -> torch.device:
    """`pick_device`, and on a GPU make it the one this process computes and communicates on."""
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def make_fabric(settings: TrainingSettings) -> tuple[Fabric, Precision]:
    """Fabric on one device with the wanted precision, and the precision plugin (its scaler is saved with a run)."""
    device = claim_device(settings.device)
    precision = Precision()
    if settings.precision != "32-true":
        precision = MixedPrecision(settings.precision, device.type)  # type: ignore[arg-type]
    strategy = SingleDeviceStrategy(device=device)
    return Fabric(accelerator=device.type, strategy=strategy, plugins=[precision]), precision


def to_device(value: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; lists of text and the like stay as they are."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: to_device(item, device) for name, item in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor | Mapping | list | tuple) for item in value):
        return [to_device(item, device) for item in value]
    return value
