"""The front door: a built-in name, a folder, a table, tar shards, a hub id or rows in memory -> Rows."""

from __future__ import annotations

import glob
import importlib
import logging
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from counterpoint.data.archives import unpacked
from counterpoint.data.errors import DataError
from counterpoint.data.folder import open_folder
from counterpoint.data.hub import open_hub, open_parquet
from counterpoint.data.labels import code_labels
from counterpoint.data.readers import ORIGINAL_ID, check_column
from counterpoint.data.rows import Rows, concatenate
from counterpoint.data.shards import open_shards
from counterpoint.data.sweeps import find_sweeps, open_sweeps
from counterpoint.data.tables import KINDS, TableReader

__all__ = ["builtin_module", "list_builtins", "open_rows", "open_sources"]

Source = str | Path | Rows | Sequence[Mapping[str, Any]]

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NAMED = re.compile(r"^([A-Za-z_][\w-]*)=(.+)$")
_TABLES = (*KINDS, ".parquet")

_log = logging.getLogger("counterpoint")


def list_builtins() -> list[str]:
    """Names of the built-in sets."""
    from counterpoint.data import builtin

    names = (found.name for found in pkgutil.iter_modules(builtin.__path__))
    return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))


def builtin_module(name: str) -> ModuleType:
    """The module of a built-in set: its docstring, `SPLITS`, `NEEDS` and `LICENCE`."""
    return importlib.import_module(f"counterpoint.data.builtin.{name.replace('-', '_')}")


def open_rows(
    source: Source,
    *,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    root: str | Path | None = None,
) -> Rows:
    """Rows of any source. Nothing is decoded, and memory does not grow with the source.

    Args:
        source: one of
            - a built-in name (`list_builtins()`), with a split if wanted: "emoji", "emoji:test",
              "emoji:train+flags";
            - a folder of pictures, clips or recordings, with or without class folders (`open_folder`), or of
              tables, or of tar shards, or of laser sweeps as KITTI and nuScenes lay them out (`open_sweeps`);
            - a csv, tsv, jsonl, txt or parquet file, also as .gz (`TableReader`);
            - a web-dataset tar (`open_shards`), or a pattern of several: "shards/{000..009}.tar",
              "shards/*.tar";
            - "hub:organisation/name" for a data set of the hub;
            - rows that are already there: `Rows`, or a list of dicts.
            A folder that is called like a built-in set is meant by "./name"; a warning says so where there is one.
        columns: new name -> name in the source, e.g. {"image": "photo", "text": "caption", "id": "key"}.
        split: which split of a source that has splits; train by default, "all" for everything.
        root: folder that media paths in a table are relative to, and may not leave; that of the table by
            default.

    Raises:
        DataError: nothing of that name (names the nearest), a wrong column (names those found), an empty
            source, or what else makes the source unusable.
    """
    columns = dict(columns or {})
    id_column = columns.pop("id", None if "id" in columns.values() else "id")
    rows = _open(source, split, None if root is None else Path(root), id_column)
    if ORIGINAL_ID in rows.columns:
        columns = {new: ORIGINAL_ID if old == "id" else old for new, old in columns.items()}
    if columns:
        rows = rows.rename(columns)
    return code_labels(rows)


def open_sources(sources: Iterable[Source], **options: Any) -> Rows:
    """Several sources as one, each optionally named: ["backlit=dark/", "welllit=bright/"].

    Args:
        sources: as for `open_rows`, text ones optionally with `name=` in front.
        options: as for `open_rows`, for each of them.

    With more than one source the rows say in `source` where they are from: the given name, else the last part
    of the path.
    """
    names: list[str] = []
    parts: list[Rows] = []
    for source in sources:
        found = _NAMED.match(source) if isinstance(source, str) and not Path(source).exists() else None
        name, place = (found.group(1), found.group(2)) if found else (None, source)
        parts.append(open_rows(place, **options))
        names.append(name or (Path(place).name if isinstance(place, (str, Path)) else f"source{len(names)}"))
    if not parts:
        raise ValueError("sources is empty: name at least one")
    if len(parts) == 1:
        return parts[0]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two sources are called {twice[0]!r}; give each a name: first=PATH second=PATH")
    return concatenate(parts, names)


def _open(source: Source, split: str | None, root: Path | None, id_column: str | None) -> Rows:
    if isinstance(source, Rows) or not isinstance(source, (str, Path)):
        if split is not None:
            raise ValueError(f"split={split!r}: rows that are already there have no splits")
        return source if isinstance(source, Rows) else _from_list(source, id_column)
    text = str(source)
    if text.startswith("hub:"):
        return open_hub(text.removeprefix("hub:"), split=split, id_column=id_column)
    name, _, inner = text.partition(":")
    if isinstance(source, str) and name in list_builtins():
        if inner and split and inner != split:
            raise ValueError(f"{source!r} names the split {inner!r}, and split={split!r} another")
        if Path(text).exists():
            _log.warning("%s is taken for the built-in set; what lies here is ./%s", text, text)
        return _open_builtin(name, inner or split)
    return _open_path(text, split, root, id_column)


def _from_list(source: Any, id_column: str | None) -> Rows:
    rows = list(source)
    wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise TypeError(f"source holds a {type(wrong).__name__}; rows are mappings of column names to values")
    if not rows:
        raise DataError("source is an empty list: there are no rows")
    if id_column not in (None, "id"):
        check_column(id_column, "id", list(rows[0]), "source")
        rows = [{**row, "id": row.get(id_column)} for row in rows]
    return Rows.from_list(rows)


def _open_builtin(name: str, split: str | None) -> Rows:
    module = builtin_module(name)
    wanted = (split or module.SPLITS[0]).split("+")
    unknown = [part for part in wanted if part not in module.SPLITS]
    if unknown:
        raise DataError(f"{name} has no split {unknown[0]!r}; it has: {', '.join(module.SPLITS)}")
    parts = [module.rows(part) for part in wanted]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _open_path(source: str, split: str | None, root: Path | None, id_column: str | None) -> Rows:
    paths = _matching(source)
    if len(paths) == 1 and paths[0].is_dir():
        if find_sweeps(paths[0]):
            return open_sweeps(paths[0], split=split, name=source)
        inside = _tables_in(paths[0])
        if not inside:
            return open_folder(paths[0], split=split, name=source)
        paths = inside
    if split not in (None, "all"):
        raise DataError(f"{source} has no splits, so split={split!r} cannot be chosen")
    odd = next((path for path in paths if not path.is_file()), None)
    if odd is not None:
        raise DataError(f"{odd} is not a regular file")
    paths = [unpacked(path) for path in paths]
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(f"{source} mixes {' and '.join(sorted(kinds))} files: name those of one kind")
    kind = kinds.pop()
    if kind == "tar":
        return open_shards(paths, name=source)
    if kind == "parquet":
        return open_parquet(paths, name=source, id_column=id_column, root=root)
    return Rows(TableReader(paths, id_column=id_column, root=root), name=source)


def _matching(source: str) -> list[Path]:
    """The path, or the files that a pattern with {000..009}, * or ? stands for, in order."""
    if Path(source).exists():
        return [Path(source)]
    found = _BRACES.search(source)
    if found:
        first, last = found.group(1), found.group(2)
        if int(last) - int(first) > 100_000:
            raise DataError(f"{source} stands for {int(last) - int(first) + 1} files")
        names = [
            f"{source[: found.start()]}{number:0{len(first)}d}{source[found.end() :]}"
            for number in range(int(first), int(last) + 1)
        ]
        return [path for name in names for path in _matching(name)]
    paths = [Path(name) for name in sorted(glob.glob(source))] if set(source) & set("*?[") else []  # noqa: PTH207
    if not paths:
        builtins = list_builtins()
        near = get_close_matches(source.partition(":")[0], builtins, n=3, cutoff=0.6)
        hint = f"nearest built-in set: {', '.join(near)}" if near else f"built-in sets: {', '.join(builtins)}"
        raise DataError(f"no file, folder or built-in set is called {source!r}; {hint}")
    return paths


def _tables_in(folder: Path) -> list[Path]:
    """Tar shards, else tables, that lie in a folder; [] for a folder of media or of splits."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    shards = [path for path in files if path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))]
    if shards:
        return shards
    metadata = [path for path in files if path.suffix.lower() in _TABLES]
    if not metadata or len(metadata) < len(files) or any(path.is_dir() for path in folder.iterdir()):
        return []
    return metadata


def _kind(path: Path) -> str:
    ending = path.suffix.lower()
    if ending == ".tar":
        return "tar"
    if ending in _TABLES:
        return KINDS.get(ending, "parquet") + ("" if ending != ".tsv" else " (tab)")
    if ending in (".zip", ".7z", ".rar", ".zst", ".bz2", ".xz"):
        raise DataError(f"{path}: {ending} archives are not read; unpack it and name the folder")
    raise DataError(
        f"{path} is no table and no shard: known endings are {', '.join(_TABLES)} and .tar (also with .gz); "
        f"for a single picture name its folder"
    )
