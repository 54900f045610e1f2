"""The run directory: what a training run leaves behind, and how a system comes back from it without a network.

config.yaml          enough to repeat the run: system with all arguments, training settings, data, versions
facts.json, facts.safetensors   what the system found out about the data before step 0
assets/              what encoders need to be built again: configurations and tokenizers, no weights
checkpoints/<step>/  sealed states to continue from; the last two are kept
metrics.jsonl        one JSON object a line
model.safetensors    the plain final weights
result.json          how the run ended
checksums.json       SHA-256 of the finished run's files
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from counterpoint import sealing, storage
from counterpoint.construction import construct
from counterpoint.encoders import assets
from counterpoint.storage import CorruptedError
from counterpoint.system import System, find_system

__all__ = [
    "FORMAT",
    "Run",
    "build_system",
    "finish_run",
    "list_checkpoints",
    "load",
    "load_weights",
    "save_facts",
    "versions",
    "write_config",
]

FORMAT = 1
_PACKAGES = (
    "counterpoint",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "lightning-fabric",
)


class Run:
    """A run directory.

    Attributes:
        path: where it is.

    Raises:
        ValueError: not a run directory, or one of a newer format.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            reason = "has no config.yaml" if self.path.is_dir() else "does not exist"
            raise ValueError(f"{self.path} is not a run directory: it {reason}")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of config.yaml.

        Raises:
            ValueError: unreadable, or written by a newer version of this library.
        """
        path = self.path / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CorruptedError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict) or not isinstance(config.get("format"), int):
            raise CorruptedError(f"{path} is not the config.yaml of a run: it has no `format` number")
        if config["format"] > FORMAT:
            raise ValueError(
                f"{self.path} was written in format {config['format']}, this version reads up to {FORMAT}: "
                "upgrade counterpoint"
            )
        return config

    @property
    def fitted(self) -> bool:
        """True for a training-free classifier made by `fit`."""
        return self.config.get("kind") == "fit"

    @property
    def system_name(self) -> str:
        """Name of the system or estimator."""
        return str(self.config["system"]["name"])

    @property
    def finished(self) -> bool:
        """True once the final weights are there."""
        return (self.path / sealing.CHECKSUMS).is_file()

    @property
    def checkpoints(self) -> list[Path]:
        """Folders of the kept checkpoints, oldest first."""
        return list_checkpoints(self.path / "checkpoints")

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl; a last line cut short by a kill is left out."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise CorruptedError(f"{path}, line {number} is not JSON") from error
        return records

    def result(self) -> dict[str, Any]:
        """How the run ended: steps, seconds, skipped rows, warnings.

        Raises:
            ValueError: the run has not ended yet.
        """
        if not (self.path / "result.json").is_file():
            raise ValueError(f"{self.path} has not ended yet: continue it with `resume`")
        return storage.read_json(self.path / "result.json")

    def facts(self) -> dict[str, Any]:
        """What `prepare` of the system found about the data."""
        if not (self.path / "facts.json").is_file():
            return {}
        facts = storage.read_json(self.path / "facts.json")
        if (self.path / "facts.safetensors").is_file():
            facts |= storage.read_tensors(self.path / "facts.safetensors")
        return facts

    def system(self, system: System | None = None) -> System:
        """The trained system in eval mode; see `load`."""
        return load(self, system=system)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, named by their step, oldest first."""
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write config.yaml atomically, with the format number and versions."""
    content = {"format": FORMAT, **config, "versions": versions()}
    storage.write_text(
        path / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    )


def save_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Store what `prepare` found: JSON values in facts.json, tensors in facts.safetensors.

    Raises:
        TypeError: a fact is neither a tensor nor a JSON value.
    """
    tensors = {name: value for name, value in facts.items() if isinstance(value, Tensor)}
    if tensors:
        storage.write_tensors(path / "facts.safetensors", tensors)
    storage.write_json(path / "facts.json", {name: value for name, value in facts.items() if name not in tensors})


def finish_run(path: Path, weights: Mapping[str, Tensor], result: Mapping[str, Any]) -> None:
    """Write final weights and result, then the checksums that mark the run as finished."""
    storage.write_tensors(path / "model.safetensors", weights)
    storage.write_json(path / "result.json", result)
    kept = [
        "config.yaml",
        "config.yaml",
        "estimator.json",
        "facts.json",
        "facts.safetensors",
        "model.safetensors",
        "result.json",
    ]
    names = [name for name in kept if (path / name).is_file()]
    names += [found.relative_to(path).as_posix() for found in (path / "assets").rglob("*") if found.is_file()]
    sealing.seal(path, names)


def build_system(name: str, arguments: Mapping[str, Any] | None = None) -> System:
    """A registered system from its name and plain arguments.

    Raises:
        ValueError: no such system, an estimator, or an unusable argument.
    """
    info = find_system(name)
    if not issubclass(info.cls, System):
        raise ValueError(f"{info.name} is training-free: use `fit` instead of `train`")
    return construct(info.cls, arguments or {})


def load_weights(system: System, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Put stored weights into a system.

    Raises:
        ValueError: they belong to another system; names the first tensors that do not fit.
    """
    own = system.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [n for n in own if n in weights and own[n].shape != weights[n].shape and own[n].numel() > 0]
    problems = [f"lacks {missing[0]} and {len(missing) - 1} more"] if missing else []
    problems += [f"holds {extra[0]} and {len(extra) - 1} more that it does not know"] if extra else []
    problems += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}" for name in shapes[:1]
    ]
    if problems:
        raise ValueError(
            f"{source} holds weights of another system than this {type(system).__name__}: {'; '.join(problems)}"
        )
    system.load_state_dict(dict(weights))


def _stored_weights(run: Run) -> tuple[dict[str, Tensor], Path]:
    """Final weights of a finished run, else those of its newest undamaged checkpoint."""
    if run.finished:
        sealing.verify(run.path, exhaustive=False)
        return storage.read_tensors(run.path / "model.safetensors"), run.path / "model.safetensors"
    for checkpoint in reversed(run.checkpoints):
        try:
            tensors, _ = sealing.read_state(checkpoint)
        except CorruptedError as error:
            warnings.warn(f"{error}; using the checkpoint before it", stacklevel=3)
            continue
        warnings.warn(f"{run.path} has not ended yet: loading its checkpoint {checkpoint.name}", stacklevel=3)
        return tensors["model"], checkpoint
    raise ValueError(f"{run.path} has no weights: the run ended before its first checkpoint, start it again")


def load(path: str | Path | Run, *, system: System | None = None, device: str | torch.device = "cpu") -> System:
    """A trained system, in eval mode, from its run directory; nothing is fetched.

    Args:
        path: the run directory.
        system: an instance to load into, for systems that are not registered by name.
        device: where the weights go.

    Returns:
        The system; a `FittedClassifier` when the run was made by `fit`.

    Raises:
        ValueError: not a run directory, damaged (names the file), of another system, or of a newer format.
    """
    run = path if isinstance(path, Run) else Run(path)
    if run.fitted:
        from counterpoint.fitted import load_fitted

        return load_fitted(run, device=device)
    weights, source = _stored_weights(run)
    if system is None:
        system = _rebuild(run)
    elif type(system).__name__ != run.config["system"].get("class", type(system).__name__):
        raise ValueError(
            f"{run.path} holds a {run.config['system']['class']} ({run.system_name}), not a {type(system).__name__}"
        )
    system.use(run.facts())
    load_weights(system, weights, source)
    return system.to(device).eval()


def _rebuild(run: Run) -> System:
    described = run.config["system"]
    if described.get("arguments") is None:
        what = f"{run.path} was trained from an instance of {described['class']}, whose arguments are not known"
        raise ValueError(f"{what}: give load(path, system=...) an instance built the same way")
    with assets.loading(run.path / "assets"):
        return build_system(described["name"], described["arguments"])
