"""What tasks share whose answers are pictures: one row after another, and names of files that any id may have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from counterpoint.data import BadRow, Row, Rows
from counterpoint.evaluation.embedding import Skipped

__all__ = ["JPEG", "answer_pictures", "file_name"]

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
_ENDINGS = (*JPEG, ".png")
_ROWS_READ = 8
"""Rows in memory: they may hold the bytes of their pictures."""
_LONGEST_NAME = 180
"""Bytes of a part of a path; file systems take 255, and endings come to it."""


def answer_pictures(
    rows: Rows, skipped: list[Skipped], answer: Callable[[Row, str], Mapping[str, Any]], *, column: str = "image"
) -> Iterator[Mapping[str, Any]]:
    """A line for every row with a picture, one at a time; the others are listed.

    Args:
        rows: the data.
        skipped: takes id and reason of every row that cannot be used.
        answer: (row, id) -> what its line says besides the id; may raise BadRow.
        column: that rows must have.
    """
    for position, row in enumerate(rows.scan(_ROWS_READ)):
        identity = rows.row_id(position)
        try:
            if isinstance(row, BadRow):
                raise row
            if row.get(column) is None:
                raise BadRow(f"no {'picture' if column == 'image' else column} in the column {column!r}")
            yield {"id": identity, **answer(row, identity)}
        except BadRow as error:
            skipped.append(Skipped(identity, str(error)))


def file_name(identity: str, *, added: str = "") -> Path:
    """A relative path for a row's id, different for different ids: the id itself where a file can be called so.

    What no file may be called is replaced, and a part of the id's hash is put in.

    Args:
        identity: any text.
        added: ending for ids that do not end like a PNG or a JPEG; "" leaves all as they are.
    """
    suffix = Path(identity).suffix.lower()
    name, ending = (identity, suffix) if suffix in _ENDINGS else (f"{identity}{added}", added)
    parts = []
    for part in name.split("/"):
        clean = re.sub(r'[\x00-\x1f<>:"\\|?*]', "_", part).strip(". ") or "_"
        parts.append(clean.encode(errors="replace")[:_LONGEST_NAME].decode(errors="ignore"))
    path = Path(*parts)
    if path.as_posix() == name and not (added and identity.endswith(added)):
        return path
    mark = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:10]
    stem = path.stem if path.suffix.lower() in _ENDINGS else path.name
    return path.with_name(f"{stem}-{mark}{ending}")
