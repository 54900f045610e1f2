"""Writes that survive a kill, reads that notice a flipped bit.

Everything is written to a temporary name beside its place, flushed to the disk, and renamed: a reader sees the old
content or the new one, never half of it. A sealed directory carries `checksums.json`, the SHA-256 of its files.
Tensors are safetensors, values are JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

__all__ = [
    "CHECKSUMS",
    "CorruptedError",
    "StorageError",
    "checksum",
    "read_json",
    "read_state",
    "read_tensors",
    "remove_directory",
    "remove_stale",
    "seal",
    "verify",
    "write_bytes",
    "write_directory",
    "write_json",
    "write_state",
    "write_tensors",
    "write_text",
]

CHECKSUMS = "checksums.json"
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
def _clear_errors(path: Path) -> Iterator[None]:
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


def _flush(path: Path) -> None:
    """Make a file or directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.parent / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file name; on success it is flushed and takes the place of `path`."""
    temporary = _temporary(path)
    with _clear_errors(path):
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
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


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(directory: Path) -> list[str]:
    """Relative names of all files below a directory but the list of checksums, sorted."""
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(path.relative_to(directory).as_posix() for path in found if path.name != CHECKSUMS)


def _canonical(sums: Mapping[str, str]) -> bytes:
    """The only bytes that list these checksums, with a checksum of the list itself."""
    own = hashlib.sha256(json.dumps(dict(sums), sort_keys=True).encode()).hexdigest()
    return (json.dumps({"files": dict(sums), "this_list": own}, indent=1, sort_keys=True) + "\n").encode()


def seal(directory: str | Path, names: Iterable[str] | None = None) -> None:
    """Write `checksums.json` for the files `names` of a directory (all by default)."""
    directory = Path(directory)
    listed = sorted(names) if names is not None else _files(directory)
    write_bytes(directory / CHECKSUMS, _canonical({name: checksum(directory / name) for name in listed}))


def verify(directory: str | Path, *, exhaustive: bool = True) -> dict[str, str]:
    """Compare a sealed directory with its `checksums.json`.

    Args:
        directory: what `seal` or `write_directory` wrote.
        exhaustive: a file that is not in the list is an error too.

    Returns:
        File name -> SHA-256.

    Raises:
        CorruptedError: names the file that is missing, changed or unknown.
    """
    directory = Path(directory)
    sums = _listed(directory / CHECKSUMS)
    for name, expected in sums.items():
        path = directory / name
        if not path.is_file():
            raise CorruptedError(f"{path} is missing")
        if checksum(path) != expected:
            raise CorruptedError(f"{path} does not match its checksum: it was damaged or changed after writing")
    unknown = sorted(set(_files(directory)) - set(sums)) if exhaustive else []
    if unknown:
        raise CorruptedError(
            f"{directory / unknown[0]} is not in {CHECKSUMS}: it was added or renamed afterwards"
        )
    return sums


def _listed(listing: Path) -> dict[str, str]:
    """File name -> SHA-256 of a list that is exactly what was written."""
    if not listing.is_file():
        raise CorruptedError(f"{listing} is missing: the directory was not written completely")
    content = read_json(listing)
    sums = content.get("files") if isinstance(content, dict) else None
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise CorruptedError(f"{listing} is damaged: it lists no checksums")
    if listing.read_bytes() != _canonical(sums):
        raise CorruptedError(f"{listing} is damaged: it is not the list that was written")
    return sums


def write_directory(path: str | Path, fill: Callable[[Path], None]) -> Path:
    """Write a directory so that it is there whole, sealed and durable, or not at all.

    Args:
        path: its final place; a directory already there is replaced.
        fill: writes the files into the temporary directory it is given.

    Raises:
        StorageError: disk full, read-only or vanished parent; an older directory is intact.
    """
    path = Path(path)
    temporary = _temporary(path)
    with _clear_errors(path):
        try:
            temporary.mkdir()
            fill(temporary)
            seal(temporary)
            for name in _files(temporary):
                _flush(temporary / name)
            for folder in [*(found for found in temporary.rglob("*") if found.is_dir()), temporary]:
                _flush(folder)
            if path.exists():  # a directory cannot be replaced in one step; the old one steps aside first
                path.rename(_temporary(path))
            temporary.rename(path)
            _flush(path.parent)
        finally:
            remove_stale(path.parent, path.name)
    return path


def remove_directory(path: str | Path) -> None:
    """Remove a directory so that a kill in between leaves it whole, or as something that `remove_stale` takes."""
    aside = _temporary(Path(path))
    Path(path).rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def remove_stale(parent: str | Path, name: str = "") -> list[Path]:
    """Remove temporary files and folders that a killed writer left in `parent`; returns what was removed."""
    stale = sorted(Path(parent).glob(f"{_TEMPORARY}*{name}"))
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return stale


def write_state(
    path: str | Path, *, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]
) -> Path:
    """Write a sealed directory of `<name>.safetensors` and `<name>.json` files, atomically."""

    def fill(folder: Path) -> None:
        for name, group in tensors.items():
            write_tensors(folder / f"{name}.safetensors", group)
        for name, value in values.items():
            write_json(folder / f"{name}.json", value)

    return write_directory(path, fill)


def read_state(path: str | Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Verify and read what `write_state` wrote: (tensors by file and name, values by file).

    Raises:
        CorruptedError: any bit differs from what was written; names the file.
    """
    path = Path(path)
    names = [name for name in verify(path) if "/" not in name]
    tensors = {name.removesuffix(".safetensors"): name for name in names if name.endswith(".safetensors")}
    values = {name.removesuffix(".json"): name for name in names if name.endswith(".json")}
    return (
        {key: read_tensors(path / name) for key, name in tensors.items()},
        {key: read_json(path / name) for key, name in values.items()},
    )
