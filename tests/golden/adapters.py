"""Collects every system's golden adapters by glob: `ADAPTERS["<system>/<function>"]` maps inputs to outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Adapter = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def _collect() -> dict[str, Adapter]:
    adapters: dict[str, Adapter] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in {"__init__", "adapters"} or path.stem.startswith("test_"):
            continue
        spec = importlib.util.spec_from_file_location(f"golden_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, adapter in module.ADAPTERS.items():
            if not name.startswith(f"{path.stem}/"):
                raise ValueError(f"{path.name} registers {name!r}; adapters of a file are named '{path.stem}/...'")
            adapters[name] = adapter
    return adapters


ADAPTERS: dict[str, Adapter] = _collect()
