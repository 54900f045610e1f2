"""A folder of pictures, clips, recordings or clouds of points, with or without class folders and captions."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from counterpoint.data.endings import AUDIO, POINTS, SIDECARS, VIDEO
from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.images import EXTENSIONS, looks_like_image
from counterpoint.data.readers import Reader, digest
from counterpoint.data.rows import Rows, concatenate

__all__ = ["FolderReader", "open_folder", "printable"]

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_CAPTION_LIMIT = 2**20
_WORDS = {"image": "text", "video": "text", "audio": "transcript"}
"""Column for the .txt file beside a file."""


@dataclass
class _Found:
    """Paths of the media files below a folder, packed: about 60 bytes a file instead of 200 for a Path."""

    names: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))
    captioned: bytearray = field(default_factory=bytearray)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, captioned: bool) -> None:
        self.names += os.fsencode(name)
        self.ends.append(len(self.names))
        self.captioned.append(captioned)


class FolderReader(Reader):
    """Media files below a folder, by relative path.

    Args:
        base: the folder.
        names: relative paths one after another, as the file system spells them.
        ends: (N,) int64, where each path ends in `names`.
        media: column the file goes into ("image", "video", "audio", "points").
        labels: (N,) class indices, or None.
        captions: whether `text` (`transcript` of a recording) is read from the .txt file beside each file.
    """

    def __init__(
        self,
        base: Path,
        names: bytes,
        ends: np.ndarray,
        *,
        media: str,
        labels: np.ndarray | None,
        captions: bool,
    ) -> None:
        self._base, self._names, self._ends = base, names, ends
        self._media, self._labels, self._captions = media, labels, captions
        self.columns = (media, *(["label"] if labels is not None else []), *([_WORDS[media]] if captions else []))

    def __len__(self) -> int:
        return len(self._ends)

    def _name(self, index: int) -> bytes:
        start = int(self._ends[index - 1]) if index else 0
        return self._names[start : int(self._ends[index])]

    def row_id(self, index: int) -> str:
        """The relative path, with bytes that are no UTF-8 written as escapes."""
        return printable(self._name(index))

    def read(self, index: int) -> dict[str, Any]:
        """The path, not the content."""
        name = self._name(index)
        path = self._base / os.fsdecode(name)
        row: dict[str, Any] = {"id": printable(name), self._media: path}
        if self._labels is not None:
            row["label"] = int(self._labels[index])
        if self._captions:
            row[_WORDS[self._media]] = _caption(path.with_suffix(".txt"))
        return row

    def column(self, name: str) -> Iterator[Any]:
        """Labels without touching the disk; other columns by reading."""
        if name == "label" and self._labels is not None:
            yield from self._labels.tolist()
        else:
            yield from super().column(name)

    def identity(self) -> str:
        """Over the relative paths and the sizes of the files."""
        sizes = bytearray()
        for index in range(len(self)):
            path = self._base / os.fsdecode(self._name(index))
            sizes += f"{path.stat().st_size if path.exists() else -1} ".encode()
        return digest(self._names, self._ends.astype("<i8").tobytes(), bytes(sizes))


def printable(name: bytes) -> str:
    """A file name as text that can be stored anywhere."""
    return name.decode("utf-8", "backslashreplace")


def _caption(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_CAPTION_LIMIT).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRow(f"caption {path.name} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def open_folder(base: Path, *, split: str | None, name: str) -> Rows:
    """Rows of a folder of media files.

    Class folders: when every file lies in a folder below `base`, the first folder is its class. Split
    folders: when those first folders are all called train, validation, test (or val, dev ...), they are
    splits; the rows are those of `split`, by default of train, with "all" everything. Captions: when at least
    half of the files have a .txt file beside them, it is `text` (of recordings the `transcript`), and files without
    one are left out and listed.

    Raises:
        DataError: nothing usable; says what was found.
    """
    splits = _split_folders(base)
    if splits:
        wanted = split or "train"
        if wanted == "all":
            parts = [open_folder(folder, split="all", name=name) for folder in splits.values()]
            return concatenate(parts, list(splits))
        if wanted not in splits:
            raise DataError(f"{base} has no split {wanted!r}; found: {', '.join(splits)} (or all)")
        return open_folder(splits[wanted], split="all", name=f"{name}:{wanted}")
    if split not in (None, "all"):
        raise DataError(f"{base} has no split folders, so split={split!r} cannot be chosen")
    media, found = _find_media(base)
    ends = np.array(found.ends, dtype=np.int64)
    names = bytes(found.names)
    captioned = np.frombuffer(found.captioned, dtype=np.uint8).astype(bool)
    labels, class_names = _labels(names, ends)
    captions = media in _WORDS and bool(captioned.mean() >= 0.5)
    reader = FolderReader(base, names, ends, media=media, labels=labels, captions=captions)
    skipped = found.skipped
    indices = None
    if captions and not captioned.all():
        indices = np.flatnonzero(captioned)
        skipped = skipped + [(reader.row_id(int(n)), "no caption beside it") for n in np.flatnonzero(~captioned)]
    return Rows(reader, name=name, indices=indices, class_names=class_names, skipped=skipped)


def _split_folders(base: Path) -> dict[str, Path]:
    with os.scandir(base) as entries:
        folders = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not folders or any(folder.lower() not in _SPLITS for folder in folders):
        return {}
    return {_SPLITS[folder.lower()]: base / folder for folder in folders}


def _find_media(base: Path) -> tuple[str, _Found]:
    """The kind of media the folder has most of, and its files."""
    kinds: dict[str, _Found] = {}
    others: Counter[str] = Counter()
    for media, endings in (("image", EXTENSIONS), ("video", VIDEO), ("audio", AUDIO)):
        kinds[media] = _walk(base, endings, sniff=media == "image")
        if kinds[media].ends and media == "image":
            break  # clips beside pictures are extras
        others |= kinds[media].others
    media = max(kinds, key=lambda kind: len(kinds[kind].ends))
    if not kinds[media].ends:
        media, kinds["points"] = "points", _walk(base, POINTS, sniff=False)
    if not kinds[media].ends:
        seen = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in others.most_common(5))
        found = seen or "nothing, it is empty"
        raise DataError(f"{base}: no pictures, clips, recordings or clouds of points in it; found: {found}")
    return media, kinds[media]


def _walk(base: Path, endings: frozenset[str], *, sniff: bool) -> _Found:
    """Media files below `base`: a folder's files by name, then its folders. Links are followed once."""
    found = _Found()
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        folder = base / below
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            found.skipped.append((printable(os.fsencode(below)), f"folder cannot be read: {error.strerror}"))
            continue
        texts = {entry.name[:-4] for entry in entries if entry.name.endswith(".txt")}
        for entry in entries:
            _take(entry, f"{below}{entry.name}", endings, sniff, texts, found)
        folders = [entry.name for entry in entries if entry.is_dir() and entry.name != "__MACOSX"]
        waiting += [f"{below}{folder_name}/" for folder_name in reversed(folders)]
    return found


def _take(
    entry: os.DirEntry[str], name: str, endings: frozenset[str], sniff: bool, texts: set[str], found: _Found
) -> None:
    if entry.is_dir():
        return
    path = PurePath(entry.name)
    ending = path.suffix.lower()
    title = printable(os.fsencode(name))
    if not entry.is_file():  # a broken link, a pipe, a device
        if ending in endings:
            found.skipped.append((title, "not a regular file, or a link to nothing"))
        return
    if ending in endings:
        found.add(name, path.stem in texts)
        return
    found.others[ending] += 1
    if not sniff or ending in SIDECARS or ending in VIDEO or ending in AUDIO:
        return
    try:
        with Path(entry.path).open("rb") as file:
            head = file.read(16)
    except OSError as error:
        found.skipped.append((title, f"cannot be read: {error.strerror}"))
        return
    if looks_like_image(head):
        found.add(name, path.stem in texts)
    else:
        found.skipped.append((title, "not a picture"))


def _labels(names: bytes, ends: np.ndarray) -> tuple[np.ndarray | None, list[str] | None]:
    """Class of each file by its first folder; None when a file has none, or all share one."""
    codes: dict[bytes, int] = {}
    labels = np.empty(len(ends), dtype=np.int32)
    start = 0
    for number, end in enumerate(ends.tolist()):
        first, separator, _ = names[start:end].partition(b"/")
        if not separator:
            return None, None
        labels[number] = codes.setdefault(first, len(codes))
        start = end
    if len(codes) < 2:
        return None, None
    order = sorted(codes)
    ranks = np.empty(len(codes), dtype=np.int32)
    ranks[[codes[folder] for folder in order]] = np.arange(len(codes))
    return ranks[labels], [printable(folder) for folder in order]
