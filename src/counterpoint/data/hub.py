"""Parquet files and data sets of the hub: the `datasets` library makes Arrow files, we memory-map them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from counterpoint.data.arrow import ArrowReader
from counterpoint.data.cache import cache_folder
from counterpoint.data.errors import DataError
from counterpoint.data.line_index import sampled_digest
from counterpoint.data.readers import check_column, digest
from counterpoint.data.rows import Rows

__all__ = ["open_hub", "open_parquet"]

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w.-]+)?$")


def open_parquet(paths: Sequence[Path], *, name: str, id_column: str | None, root: Path | None) -> Rows:
    """Rows of parquet files, converted once to Arrow in the cache folder.

    Raises:
        DataError: not parquet, or files with different columns.
    """
    dataset = _load(name, "parquet", data_files=[str(path) for path in paths], split="train")
    identity = digest(*(sampled_digest(path) for path in paths), str(id_column))
    return _rows(dataset, name=name, identity=identity, id_column=id_column, root=root or paths[0].parent)


def open_hub(hub_id: str, *, split: str | None, id_column: str | None) -> Rows:
    """Rows of a data set on the hub ("organisation/name", "organisation/name@revision"), downloaded once.

    Code that a data set may bring is never run. Raises:
        DataError: no such data set, split or network.
    """
    if not _HUB_ID.match(hub_id):
        raise DataError(f"hub:{hub_id} is no hub id; write hub:organisation/name or hub:organisation/name@revision")
    repository, _, revision = hub_id.partition("@")
    dataset = _load(f"hub:{hub_id}", repository, split=split or "train", revision=revision or None)
    identity = f"hub {hub_id} {split} {dataset._fingerprint}"
    return _rows(dataset, name=f"hub:{hub_id}", identity=identity, id_column=id_column, root=None)


def _load(name: str, path: str, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(path, cache_dir=str(cache_folder("datasets")), **options)
    except Exception as error:  # the library raises whatever its readers and the network raise
        reason = error.__cause__ or error
        raise DataError(f"{name} cannot be read: {' '.join(str(reason).split())[:300]}") from error


def _rows(dataset: Any, *, name: str, identity: str, id_column: str | None, root: Path | None) -> Rows:
    import datasets

    paths = [Path(entry["filename"]) for entry in dataset.cache_files]
    if not paths or len(dataset) == 0:
        raise DataError(f"{name}: no rows")
    if id_column not in (None, "id"):
        check_column(str(id_column), "id", dataset.column_names, name)
    if id_column not in dataset.column_names:
        id_column = None
    reader = ArrowReader(paths, identity=identity, id_column=id_column, root=root)
    if id_column is not None:
        reader.check_ids(name)
    label = dataset.features.get("label")
    class_names = label.names if isinstance(label, datasets.ClassLabel) else None
    return Rows(reader, name=name, class_names=class_names)
