"""Writes that survive a kill, reads that refuse what is damaged.

Everything is written to a temporary name beside its place, flushed to the disk, and renamed: a reader sees the old
content or the new one, never half of it. Tensors are safetensors, values are JSON; nothing is ever unpickled.
`sealing.py` adds checksums.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

__all__ = [
    "CorruptedError",
    "StorageError",
    "clear_errors",
    "flush",
    "read_json",
    "read_tensors",
    "remove_stale",
    "temporary_name",
    "write_bytes",
    "write_json",
    "write_tensors",
    "write_text",
]

_TEMPORARY = ".counterpoint-"
_HEADER_LIMIT = 25 * 2**20  # bytes; a model of 100,000 tensors needs about 12 MB
_JSON_LIMIT = 256 * 2**20
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the system allows",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "the directory has vanished",
    errno.ENOTDIR: "a parent is not a directory",
    errno.EIO: "the disk reported an error",
}


class StorageError(OSError):
    """Something could not be written; what was there before is intact."""


class CorruptedError(ValueError):
    """A file is not what was written: damaged, cut short, or made by somebody else."""


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one line that names the path and the reason."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        if code is None:  # safetensors only has the text of the system's error
            code = next((c for c in _REASONS if f"os error {c}" in str(error)), errno.EIO)
        reason = _REASONS.get(code, str(error))
        raise StorageError(code, f"cannot write {path}: {reason}; what was there before is intact") from error


def flush(path: Path) -> None:
    """Make a file or directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A free name beside `path`; what is left under such a name, `remove_stale` removes."""
    return path.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file name; on success it is flushed and takes the place of `path`."""
    temporary = temporary_name(path)
    with clear_errors(path):
        try:
            yield temporary
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Write a file so that it is there whole or not at all.

    Raises:
        StorageError: disk full, read-only or vanished directory; an older file is intact.
    """
    path = Path(path)
    with _replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """`write_bytes` of UTF-8 text."""
    return write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> Path:
    """Write JSON values, indented, floats with all their digits.

    Raises:
        TypeError: something in `value` is not a JSON value.
        StorageError: see `write_bytes`.
    """
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write named tensors as safetensors; tensors that share memory are stored once each.

    Raises:
        TypeError: a value is not a tensor.
        StorageError: see `write_bytes`.
    """
    path = Path(path)
    prepared = _separate(tensors)
    with _replacing(path) as temporary:
        safetensors.torch.save_file(prepared, str(temporary), metadata={"format": "pt"})
    return path


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors no two of which share memory (tied weights would be refused by the format)."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; only tensors are stored as safetensors")
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            tensor = tensor.clone()
        seen.add(address)
        separate[name] = tensor
    return separate


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        CorruptedError: not JSON, or larger than 256 MB.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if path.stat().st_size > _JSON_LIMIT:
        raise CorruptedError(f"{path} is larger than {_JSON_LIMIT >> 20} MB: not a file of ours")
    try:
        return json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise CorruptedError(f"{path} is not valid JSON ({error}); it is damaged or was edited") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU; the header is bounded before it is parsed.

    Raises:
        CorruptedError: not a safetensors file, or one with a hostile or damaged header.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        announced = int.from_bytes(file.read(8), "little")
    if size < 10 or announced > min(size - 8, _HEADER_LIMIT):
        raise CorruptedError(
            f"{path} is not a usable safetensors file: its header claims {announced} bytes, the file has {size} "
            f"(limit {_HEADER_LIMIT})"
        )
    try:
        return safetensors.torch.load_file(str(path))
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptedError(f"{path} is not a valid safetensors file: {error}") from error


def remove_stale(parent: str | Path, name: str = "") -> list[Path]:
    """Remove temporary files and folders that a killed writer left in `parent`; returns what was removed."""
    stale = sorted(Path(parent).glob(f"{_TEMPORARY}*{name}"))
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return stale
