"""Our functions against values, gradients and indices recorded from the papers' own code.

`COUNTERPOINT_GOLDEN=folder` runs the same test on another folder of the same layout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import ADAPTERS

from counterpoint.system import list_systems

CASES = Path(os.environ.get("COUNTERPOINT_GOLDEN", Path(__file__).parent / "data"))
MANIFEST: dict[str, dict[str, dict[str, Any]]] = json.loads((CASES / "manifest.json").read_text())
IMPLEMENTED = {system.name for system in list_systems()}


def _cases() -> list[tuple[str, str, str]]:
    return [
        (system, function, file)
        for system, functions in sorted(MANIFEST.items())
        if system in IMPLEMENTED
        for function, entry in sorted(functions.items())
        for file in entry["files"]
    ]


def _tolerance(entry: Mapping[str, Any], stored: np.ndarray) -> tuple[float, float]:
    if stored.dtype == np.float32 and "float32" in entry:
        entry = entry["float32"]
    return entry["rtol"], entry["atol"]


def _compare(name: str, ours: np.ndarray, stored: np.ndarray, entry: Mapping[str, Any]) -> None:
    ours = np.asarray(ours)
    if entry.get("unordered_rows"):
        ours, stored = ours[np.lexsort(ours.T)], stored[np.lexsort(stored.T)]
    assert ours.shape == stored.shape, f"{name}: shape {ours.shape}, expected {stored.shape}"
    if stored.dtype.kind not in "fc":
        assert np.array_equal(ours, stored), f"{name}: {ours} is not {stored}"
        return
    rtol, atol = _tolerance(entry, stored)
    np.testing.assert_allclose(ours, stored, rtol=rtol, atol=atol, equal_nan=True, err_msg=name)


@pytest.mark.parametrize(("system", "function", "file"), _cases(), ids=lambda value: str(value))
def test_golden_vector(system: str, function: str, file: str) -> None:
    entry = MANIFEST[system][function]
    adapter = ADAPTERS.get(f"{system}/{function}")
    assert adapter is not None, f"tests/golden/{system}.py has no adapter '{system}/{function}'"
    with np.load(CASES / system / file, allow_pickle=False) as stored_file:
        stored = {name: stored_file[name] for name in stored_file.files}
    known = [*entry["inputs"], *entry["optional_inputs"]]
    ours = adapter({name: stored[name] for name in known if name in stored})
    for name, tolerance in entry["outputs"].items():
        if name not in stored:
            assert tolerance.get("when_present"), f"{file} lacks the output {name!r}"
            continue
        assert name in ours, f"the adapter '{system}/{function}' returns no {name!r}"
        _compare(f"{file}: {name}", ours[name], stored[name], tolerance)


def test_every_implemented_system_with_vectors_is_in_the_manifest() -> None:
    folders = {path.name for path in CASES.iterdir() if path.is_dir()}
    assert folders & IMPLEMENTED <= set(MANIFEST)
