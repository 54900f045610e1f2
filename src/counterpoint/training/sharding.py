"""`shard`: which weights the processes of a run share out, and what it cannot be combined with."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import nn

from counterpoint.distributed import process_count
from counterpoint.encoders.base import Encoder
from counterpoint.encoders.towers import Towers
from counterpoint.sharded import Shares, share_out, shareable
from counterpoint.system import System
from counterpoint.training.settings import TrainingSettings

__all__ = ["check_shard", "explaining_shares", "share_encoders"]


def shared_modules(system: System) -> list[nn.Module]:
    """Modules of the system's encoders, momentum copies included, whose weights are shared out; inner ones first."""
    found: dict[nn.Module, None] = {}
    for module in system.modules():
        if isinstance(module, Encoder):
            found.update(dict.fromkeys(shareable(module, (Encoder, Towers))))
    return list(found)


def check_shard(system: System, settings: TrainingSettings) -> None:
    """Refuse `shard` where it cannot give what one process gives; does nothing on one process.

    Raises:
        ValueError: the system has no encoder to share out, or a stage names an optimiser that needs whole weights.
    """
    if not settings.shard or process_count() == 1:
        return
    if not shared_modules(system):
        raise ValueError(
            f"shard=true: {type(system).__name__} has no encoder whose weights could be shared out (a "
            "counterpoint.encoders.base.Encoder with a block of 4,096 weights or more): leave shard out"
        )
    for stage in system.stages():
        name = (stage.optimiser or {}).get("name")
        if name is not None:
            try:
                dataclasses.replace(settings, optimiser=name)
            except ValueError as error:
                raise ValueError(f"stage {stage.name!r} of {type(system).__name__}: {error}") from error


def share_encoders(system: System, device: torch.device) -> Shares:
    """Leave each process its share of the encoders' weights. Collective."""
    return share_out(system, shared_modules(system), device)


@contextlib.contextmanager
def explaining_shares(system: System) -> Iterator[None]:
    """Inside, a use of weights that are not there becomes an error that says so.

    Raises:
        ValueError: the system reads the weights of an encoder elsewhere than in the module that holds them.
    """
    try:
        yield
    except (RuntimeError, NotImplementedError, AssertionError, TypeError) as error:
        if "DTensor" not in str(error):
            raise
        raise ValueError(
            f"shard=true cannot be used with {type(system).__name__}: it reads weights of an encoder outside of the "
            f"module that holds them, where a process has only its share ({str(error).splitlines()[0]}). "
            "Leave shard out"
        ) from error
