"""What a run stores of its encoders besides weights, and how they are built again from it without a network.

`save` writes `<n>/config.json` (and tokenizer files) for every encoder of a system. Inside `loading(folder)` a
constructor that is given the same name finds that folder and builds the same network with fresh weights; the caller
then loads the system's weights over them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from counterpoint.encoders.base import Encoder
from counterpoint.encoders.weights import read_safetensors

__all__ = ["Asset", "find", "loading", "of_run", "run_weights", "save"]

_FOLDER: ContextVar[Path | None] = ContextVar("folder of the run that is being loaded", default=None)


@dataclass(frozen=True)
class Asset:
    """One stored encoder.

    Attributes:
        folder: holds its config.json and tokenizer files.
        config: the content of config.json: kind, name, prefix (of its parameters within the system), and what the
            encoder's class wrote.
    """

    folder: Path
    config: dict[str, Any]


def save(system: nn.Module, folder: str | Path) -> None:
    """Write the assets of every encoder in `system` to folder/0, folder/1, ...; equal ones once."""
    folder = Path(folder)
    seen: set[tuple[str, str]] = set()
    for prefix, module in system.named_modules():
        if not isinstance(module, Encoder) or (module.kind, module.name) in seen:
            continue
        target = folder / str(len(seen))
        seen.add((module.kind, module.name))
        target.mkdir(parents=True, exist_ok=True)
        config = {"kind": module.kind, "name": module.name, "prefix": prefix, **module.save_assets(target)}
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read(folder: str | Path) -> list[Asset]:
    """The assets below `folder`, in the order they were numbered.

    Raises:
        ValueError: a config.json that is not JSON.
    """
    assets = []
    for path in sorted(Path(folder).glob("*/config.json"), key=lambda path: (len(path.parent.name), path.parent.name)):
        try:
            assets.append(Asset(path.parent, json.loads(path.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
    return assets


@contextmanager
def loading(folder: str | Path) -> Iterator[None]:
    """While inside, encoders are built from the assets below `folder`, with fresh weights and without a network."""
    token = _FOLDER.set(Path(folder))
    try:
        yield
    finally:
        _FOLDER.reset(token)


def find(kind: str, name: str) -> Asset | None:
    """The asset that an encoder of this kind and name is to be built from, or None outside `loading`.

    Raises:
        ValueError: inside `loading`, and the folder holds no such asset.
    """
    folder = _FOLDER.get()
    if folder is None:
        return None
    assets = read(folder)
    for asset in assets:
        if (asset.config.get("kind"), asset.config.get("name")) == (kind, name):
            return asset
    stored = [f"{asset.config.get('kind')} {asset.config.get('name')!r}" for asset in assets]
    raise ValueError(f"{folder} stores no {kind} encoder {name!r}; it has: {', '.join(stored) or 'none'}")


def stored_kind(name: str, kinds: Sequence[str]) -> str | None:
    """The kind of the encoder that a name stands for: of a run ("run:PATH"), or inside `loading`; None elsewhere.

    Args:
        name: of the encoder.
        kinds: those that count; of a run's encoders the first of one of them is taken.

    Raises:
        ValueError: a run without an encoder of these kinds.
    """
    folder = _FOLDER.get()
    if folder is not None:
        stored = [asset for asset in read(folder) if asset.config.get("name") == name]
    elif name.startswith("run:"):
        stored = read(Path(name.removeprefix("run:").partition("?")[0]).expanduser() / "assets")
    else:
        return None
    found = next((str(asset.config["kind"]) for asset in stored if asset.config.get("kind") in kinds), None)
    if found is None:
        raise ValueError(f"{name} stores no encoder of these kinds: {', '.join(kinds)}")
    return found


def of_run(path: str | Path, kind: str) -> Asset:
    """The first encoder of a kind in a run directory (`config.yaml`, `model.safetensors`, `assets/<n>/`).

    Raises:
        ValueError: not a run directory, or it has no encoder of this kind.
    """
    path = Path(path).expanduser()
    if not (path / "config.yaml").is_file() or not (path / "model.safetensors").is_file():
        raise ValueError(f"{path} is no run directory: config.yaml or model.safetensors is missing")
    assets = read(path / "assets")
    for asset in assets:
        if asset.config.get("kind") == kind:
            return asset
    kinds = sorted({str(asset.config.get("kind")) for asset in assets})
    raise ValueError(f"run {path} has no {kind} encoder; it has: {', '.join(kinds) or 'none'}")


def run_weights(path: str | Path, asset: Asset) -> dict[str, Tensor]:
    """The weights of one encoder of a run, under the names that the encoder itself gives them."""
    prefix = asset.config["prefix"] + "." if asset.config["prefix"] else ""
    return read_safetensors(Path(path).expanduser() / "model.safetensors", prefix=prefix)
