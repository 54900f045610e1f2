"""web-dataset tar shards with random access: an index of member positions on disk, nothing ever unpacked."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from counterpoint.data.arrow import MappedTable, write_arrow
from counterpoint.data.cache import cache_folder, replacing
from counterpoint.data.endings import AUDIO, VIDEO
from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.images import EXTENSIONS
from counterpoint.data.line_index import file_key, sampled_digest
from counterpoint.data.readers import Reader, digest
from counterpoint.data.rows import Rows

__all__ = ["ShardReader", "open_shards"]

_KINDS = ("image", "text", "label", "json", "video", "audio")
_FIELDS = {
    **dict.fromkeys(EXTENSIONS, "image"),
    **dict.fromkeys(VIDEO, "video"),
    **dict.fromkeys(AUDIO, "audio"),
    ".txt": "text",
    ".text": "text",
    ".caption": "text",
    ".cls": "label",
    ".json": "json",
}
_CODE = (".pyd", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz")
_END = "(end)"
_SMALL_LIMIT = 16 * 2**20  # bytes of a text, label or JSON member
_SCHEMA = pa.schema(
    [("key", pa.string()), *((f"{kind}_{part}", pa.int64()) for kind in _KINDS for part in ("start", "size"))]
)
_SKIPS = pa.schema([("key", pa.string()), ("reason", pa.string())])


@dataclass
class _Sample:
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class ShardReader(Reader):
    """Samples of tar files; members of one sample share the name up to the first dot.

    Endings: pictures, clips, recordings -> `image`, `video`, `audio` (bytes); .txt -> `text`; .cls ->
    `label`; the fields of a .json object become columns. Pickles and other code are never read.

    Args:
        shards: (name used in ids, tar file, index file) of each shard.
    """

    def __init__(self, shards: Sequence[tuple[str, Path, Path]]) -> None:
        self._names = [name for name, _, _ in shards]
        self._tars = [tar for _, tar, _ in shards]
        self._indices = [MappedTable([index]) for _, _, index in shards]
        self._ends = np.array(list(accumulate(len(index) for index in self._indices)), dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _entry(self, index: int) -> tuple[int, dict[str, Any]]:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        inner = index - (int(self._ends[shard - 1]) if shard else 0)
        return shard, self._indices[shard].rows(inner, inner + 1)[0]

    def row_id(self, index: int) -> str:
        """Shard and key."""
        shard, entry = self._entry(index)
        return f"{self._names[shard]}/{entry['key']}"

    def read(self, index: int) -> dict[str, Any]:
        """One sample: media as bytes, text decoded, JSON fields beside them."""
        shard, entry = self._entry(index)
        row: dict[str, Any] = {"id": f"{self._names[shard]}/{entry['key']}"}
        try:
            with self._tars[shard].open("rb") as file:
                for kind in _KINDS:
                    start, size = entry[f"{kind}_start"], entry[f"{kind}_size"]
                    if start is not None:
                        file.seek(start)
                        _put(row, kind, file.read(size), size)
        except OSError as error:
            raise BadRow(f"shard cannot be read: {error.strerror}", row["id"]) from error
        return row

    def present(self) -> dict[str, np.ndarray]:
        """Kind of member -> (N,) whether each sample has one; only kinds that occur."""
        found = {}
        for kind in _KINDS:
            pieces = [piece.is_valid() for index in self._indices for piece in index.values(f"{kind}_start")]
            flags = np.concatenate([piece.to_numpy(zero_copy_only=False) for piece in pieces] or [np.zeros(0, bool)])
            if flags.any():
                found[kind] = flags
        return found

    def identity(self) -> str:
        """Over sizes and sampled content of the shards."""
        return digest(*self._names, *(sampled_digest(tar) for tar in self._tars))


def _put(row: dict[str, Any], kind: str, content: bytes, size: int) -> None:
    if len(content) < size:
        raise BadRow("the shard ends inside this sample", row["id"])
    if kind in ("image", "video", "audio"):
        row[kind] = content
        return
    if size > _SMALL_LIMIT:
        raise BadRow(f"{kind} member of {size} bytes", row["id"])
    try:
        text = content.decode("utf-8").strip()
        if kind != "json":
            row[kind] = text
            return
        fields = json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadRow(f"{kind} member cannot be read: {error}", row["id"]) from None
    if not isinstance(fields, dict):
        raise BadRow(f"the .json member holds a {type(fields).__name__}, not an object", row["id"])
    row.update({name: value for name, value in fields.items() if name not in row})


def open_shards(paths: Sequence[Path], *, name: str) -> Rows:
    """Rows of tar shards.

    What at least half of the samples have (a picture, a text ...) is expected of all: the others are left out
    and listed as missing a pair, as are unsafe names, links, devices, and what a shard that ends too early
    has lost.

    Raises:
        DataError: not one usable sample.
    """
    shards, skipped = [], []
    for path in paths:
        title = path.name if len({other.name for other in paths}) == len(paths) else str(path)
        index, problems = _indexed(path)
        shards.append((title.removesuffix(".tar"), path, index))
        skipped += [(f"{title}:{key}", reason) for key, reason in problems]
    reader = ShardReader(shards)
    if len(reader) == 0:
        why = f" First problem: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"{name}: no samples in {len(paths)} shards.{why}")
    present = reader.present()
    expected = [kind for kind, flags in present.items() if flags.mean() >= 0.5]
    complete = np.logical_and.reduce([present[kind] for kind in expected])
    for number in np.flatnonzero(~complete).tolist():
        lost = [kind for kind in expected if not present[kind][number]]
        skipped.append((reader.row_id(number), f"missing pair: no {' and no '.join(lost)} member"))
    first = int(np.flatnonzero(complete)[0]) if complete.any() else 0
    reader.columns = _columns(reader, first, expected)
    indices = None if complete.all() else np.flatnonzero(complete)
    return Rows(reader, name=name, indices=indices, skipped=skipped)


def _columns(reader: ShardReader, first: int, expected: list[str]) -> tuple[str, ...]:
    """Expected members, and the JSON fields of the first sample that can be read."""
    names = dict.fromkeys(kind for kind in expected if kind != "json")
    if "json" in expected:
        for index in range(first, min(first + 100, len(reader))):
            try:
                names.update(dict.fromkeys(key for key in reader.read(index) if key != "id"))
                break
            except BadRow:
                continue  # counted when the row is read for use
    return tuple(names)


def _indexed(path: Path) -> tuple[Path, list[tuple[str, str]]]:
    """The index file of a shard and what was left out, made on first use."""
    key = file_key(path, "tar index 1")
    index, skips = cache_folder("shards") / f"{key}.arrow", cache_folder("shards") / f"{key}.skipped.json"
    if not (index.exists() and skips.exists()):
        samples, problems = _scan(path)
        with replacing(skips) as temporary:
            temporary.write_text(json.dumps(problems))
        write_arrow(index, _index_rows(samples), _SCHEMA)
    return index, [(entry, reason) for entry, reason in json.loads(skips.read_text())]


def _index_rows(samples: dict[str, _Sample]) -> Iterator[dict[str, Any]]:
    for key, sample in samples.items():
        row: dict[str, Any] = {"key": key}
        for kind, (start, size) in sample.members.items():
            row[f"{kind}_start"], row[f"{kind}_size"] = start, size
        yield row


def _scan(path: Path) -> tuple[dict[str, _Sample], list[tuple[str, str]]]:
    """Samples of one shard by key, in the order of the tar, and what was left out. Reads headers only."""
    samples: dict[str, _Sample] = {}
    problems: list[tuple[str, str]] = []
    total = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every member otherwise
                problem = _take(member, samples, total)
                if problem:
                    problems.append((_printable(member.name), problem))
            end = tar.offset  # where no further header could be read
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        if not samples and not problems:
            raise DataError(f"{path} is no tar file, or is damaged from its start: {error}") from None
        problems.append((_END, f"the shard is cut short or damaged: {error}"))
        return samples, problems
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(tarfile.BLOCKSIZE)
    if mark != b"\0" * tarfile.BLOCKSIZE and end <= total:  # tarfile takes these for the regular end
        problems.append((_END, "no end mark: the shard is cut short or damaged, and what followed is lost"))
    return samples, problems


def _take(member: tarfile.TarInfo, samples: dict[str, _Sample], total: int) -> str | None:
    """Enter a member into the samples, or say why not. Folders and files that are no data pass silently."""
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        kind = "link" if member.islnk() or member.issym() else "device, pipe or sparse file"
        return f"{kind}: never followed"
    folder, _, last = member.name.rpartition("/")
    if member.name.startswith(("/", "\\")) or member.name[1:2] == ":" or ".." in member.name.split("/"):
        return "unsafe path: absolute or with .."
    base, dot, ending = last.partition(".")
    ending = f".{ending.lower()}"
    if not base or not dot:
        return None
    if ending.endswith(_CODE):
        return "code or pickle: never read"
    kind_of_member = _FIELDS.get(ending)
    if kind_of_member is None:
        return None
    if member.offset_data + member.size > total:
        return "the shard ends inside this member"
    key = _printable(f"{folder.removeprefix('./')}/{base}" if folder not in ("", ".") else base)
    sample = samples.setdefault(key, _Sample())
    if kind_of_member in sample.members:
        return f"a second {kind_of_member} of the same sample name; the first is kept"
    sample.members[kind_of_member] = (member.offset_data, member.size)
    return None


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
