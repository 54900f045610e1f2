"""Readers that built-in sets share: media inside a package, and tables that are made once from a package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from counterpoint.data.arrow import ArrowReader, write_arrow
from counterpoint.data.cache import cache_folder
from counterpoint.data.packages import PackageFiles
from counterpoint.data.readers import Reader, digest

__all__ = ["ComposedReader", "PackageReader", "made_once"]


class PackageReader(Reader):
    """Rows whose media are files of a package; the bytes are read when a row is.

    Args:
        files: where the package is.
        rows: with an `id`; the value of `media` is a file name in the package.
        media: the column that holds it.
    """

    def __init__(self, files: PackageFiles, rows: Sequence[Mapping[str, Any]], *, media: str) -> None:
        self._files, self._rows, self._media = files, list(rows), media
        self.columns = tuple(name for name in self._rows[0] if name != "id")

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        """As the set defines it."""
        return str(self._rows[index]["id"])

    def read(self, index: int) -> dict[str, Any]:
        """The row with the file's bytes."""
        row = dict(self._rows[index])
        row[self._media] = self._files.read(row[self._media])
        return row

    def column(self, name: str) -> Iterable[Any]:  # type: ignore[override]
        """Values without reading the media, unless they are asked for."""
        if name != self._media:
            return iter([row.get(name) for row in self._rows])
        return super().column(name)

    def identity(self) -> str:
        """Over the package's version and the rows."""
        return digest(self._files.package.name, self._files.version, repr(self._rows))


class ComposedReader(Reader):
    """Rows whose `video` is composed when they are read; everything else about them is known without it."""

    def words(self, index: int) -> dict[str, Any]:
        """The row without its `video`."""
        raise NotImplementedError

    def column(self, name: str) -> Iterator[Any]:
        """Values without composing anything, unless that is asked for."""
        if name == "video":
            yield from super().column(name)
        else:
            yield from (self.words(index).get(name) for index in range(len(self)))


def made_once(title: str, schema: pa.Schema, make: Callable[[], Iterable[Mapping[str, Any]]]) -> ArrowReader:
    """Rows kept in the cache folder as an Arrow file; made on first use.

    Args:
        title: names what the rows depend on: the set, versions, settings. Becomes the file name and the
            identity.
        schema: of the rows; with a column `id` that is unique.
        make: gives the rows. Two processes may make them at once; both files are whole.
    """
    path = cache_folder("made") / f"{title}.arrow"
    if not path.exists():
        write_arrow(path, make(), schema)
    return ArrowReader([path], identity=title, id_column="id")
