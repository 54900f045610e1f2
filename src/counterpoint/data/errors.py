"""What can be wrong with data: one row, or the whole source."""

from __future__ import annotations

__all__ = ["BadRow", "DataError"]


class DataError(ValueError):
    """The source cannot be used; the message says what was found and what to do."""


class BadRow(ValueError):
    """One row cannot be used. Loaders count it, list it and leave it out.

    Attributes:
        reason: why, in one line.
        row_id: which row, where that is known.
    """

    def __init__(self, reason: str, row_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.row_id = row_id

    def __reduce__(self) -> tuple[type[BadRow], tuple[str, str | None]]:
        return type(self), (self.reason, self.row_id)
