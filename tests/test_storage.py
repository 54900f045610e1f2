"""What is written comes back; what is damaged or hostile is refused."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint import storage
from counterpoint.storage import CorruptedError


def example(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(16, 8, generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
    }


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_floats_keep_all_digits(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 2.0**-1074, 1 / 3]
    storage.write_json(tmp_path / "v.json", values)
    assert storage.read_json(tmp_path / "v.json") == values


def test_tied_tensors_are_stored_once_each(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    storage.write_tensors(tmp_path / "t.safetensors", {"a": weight, "b": weight, "c": weight.T, "row": weight[1]})
    read = storage.read_tensors(tmp_path / "t.safetensors")
    assert equal(read, {"a": weight, "b": weight, "c": weight.T, "row": weight[1]})


def test_only_tensors_are_stored_as_tensors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="rate is a float"):
        storage.write_tensors(tmp_path / "t.safetensors", {"rate": 0.1})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


class Explodes:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def header(content: bytes, length: int | None = None) -> bytes:
    return (len(content) if length is None else length).to_bytes(8, "little") + content


def entries(**changes: Any) -> bytes:
    """A header of one tensor with something wrong, and its 8 bytes."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return header(json.dumps({"a": entry}).encode()) + bytes(8)


def million() -> bytes:
    item = b'"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return header(b"{" + b",".join(item % number for number in range(10**6)) + b"}")


def overlap() -> bytes:
    parts = {name: {"dtype": "F32", "shape": [2], "data_offsets": [at, at + 8]} for name, at in (("a", 0), ("b", 4))}
    return header(json.dumps(parts).encode()) + bytes(12)


ATTACKS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "length above file": lambda: header(b"{}", 2**40),
    "largest length": lambda: header(b"{}", 2**64 - 1),
    "header of 100 MB": lambda: header(b" " * (100 * 2**20)),
    "a million tensors": million,
    "overlap": overlap,
    "negative": lambda: entries(data_offsets=[-8, 0]),
    "shape and length differ": lambda: entries(shape=[3]),
    "beyond the end": lambda: entries(data_offsets=[0, 4096]),
    "huge shape": lambda: entries(shape=[2**62, 2**62]),
    "not JSON": lambda: header(b"{" * 1000) + bytes(8),
    "deep JSON": lambda: header(b"[" * 100_000) + bytes(8),
}


def refused(path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(CorruptedError, match=path.name):
        storage.read_tensors(path)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_tensors_are_refused_fast(tmp_path: Path, name: str) -> None:
    (tmp_path / "attack.safetensors").write_bytes(ATTACKS[name]())
    refused(tmp_path / "attack.safetensors")


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_pickles_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "attack.safetensors").write_bytes(pickle.dumps(Explodes(tmp_path / "executed"), protocol))
    refused(tmp_path / "attack.safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(CorruptedError, match="v.json"):
        storage.read_json(tmp_path / "v.json")
