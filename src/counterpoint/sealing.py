"""Directories that carry the SHA-256 of their files: a flipped bit, a lost or a foreign file never goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from counterpoint.storage import (
    CorruptedError,
    clear_errors,
    flush,
    read_json,
    read_tensors,
    remove_stale,
    temporary_name,
    write_bytes,
    write_json,
    write_tensors,
)

__all__ = [
    "CHECKSUMS",
    "checksum",
    "read_state",
    "remove_directory",
    "seal",
    "verify",
    "write_directory",
    "write_state",
]

CHECKSUMS = "checksums.json"


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
        raise CorruptedError(f"{directory / unknown[0]} is not in {CHECKSUMS}: it was added or renamed afterwards")
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
    temporary = temporary_name(path)
    with clear_errors(path):
        try:
            temporary.mkdir()
            fill(temporary)
            seal(temporary)
            for name in _files(temporary):
                flush(temporary / name)
            for folder in [*(found for found in temporary.rglob("*") if found.is_dir()), temporary]:
                flush(folder)
            if path.exists():  # a directory cannot be replaced in one step; the old one steps aside first
                path.rename(temporary_name(path))
            temporary.rename(path)
            flush(path.parent)
        finally:
            remove_stale(path.parent, path.name)
    return path


def remove_directory(path: str | Path) -> None:
    """Remove a directory so that a kill in between leaves it whole, or as something that `remove_stale` takes."""
    aside = temporary_name(Path(path))
    Path(path).rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def write_state(path: str | Path, *, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> Path:
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
