"""What a protocol is and what it sees. One protocol is one file in `evaluation/protocols/`."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from counterpoint.construction import as_plain, construct

__all__ = ["Measured", "NotApplicable", "Protocol", "choose_protocols", "list_protocols"]


class NotApplicable(ValueError):
    """The data or the model do not allow a protocol; the message says what is missing."""


@dataclass(frozen=True)
class Measured:
    """What a protocol found.

    Attributes:
        scores: name -> value.
        chance: name -> value of a guesser, for the scores that have one.
        notes: facts that belong beside the scores (classes, sizes, the chosen strength), JSON values.
    """

    scores: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Protocol(ABC):
    """A way to score a model on rows. Subclasses are frozen dataclasses: the fields are its settings.

    Class attributes:
        columns: columns the data must have for it.
        default: whether `evaluate` runs it without being asked for it.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    default: ClassVar[bool] = True

    @classmethod
    def name(cls) -> str:
        """That of its file."""
        return cls.__module__.rsplit(".", 1)[-1]

    def settings(self) -> dict[str, Any]:
        """Fields as JSON values."""
        return dict(as_plain(self, self.name()))

    def check_columns(self, found: Sequence[str]) -> None:
        """Refuse data that lack a column.

        Raises:
            NotApplicable: names what is missing and what was found.
        """
        missing = [name for name in self.columns if name not in found]
        if missing:
            wanted = f"column{'s' if len(missing) > 1 else ''} {' and '.join(map(repr, missing))}"
            raise NotApplicable(f"needs the {wanted}; found {', '.join(found) or 'none'}")

    @abstractmethod
    def run(self, task: Any) -> Measured:
        """Score `task` (an `evaluation.task.Task`).

        Raises:
            NotApplicable: the model or the data do not allow it.
        """


@cache
def list_protocols() -> dict[str, type[Protocol]]:
    """Every protocol in `evaluation/protocols/`, by the name of its file."""
    package = importlib.import_module("counterpoint.evaluation.protocols")
    found: dict[str, type[Protocol]] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Protocol) and value.__module__ == module.__name__:
                found[info.name] = value
    return found


def choose_protocols(
    wanted: Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None,
) -> tuple[list[Protocol], bool]:
    """Protocol objects for what the caller asked for, and whether they were asked for by name.

    Args:
        wanted: names, or name -> settings that differ from the defaults; None means every default protocol.

    Raises:
        ValueError: an unknown name or setting; lists what exists.
    """
    known = list_protocols()
    if wanted is None:
        return [cls() for cls in known.values() if cls.default], False
    items = wanted.items() if isinstance(wanted, Mapping) else [(name, None) for name in _names(wanted)]
    protocols: list[Protocol] = []
    for name, settings in items:
        if name not in known:
            raise ValueError(f"no protocol is called {name!r}; there are {', '.join(known)}")
        protocols.append(construct(known[name], settings or {}))
    return protocols, True


def _names(wanted: Sequence[str]) -> Sequence[str]:
    if isinstance(wanted, str):
        return [name.strip() for name in wanted.split(",") if name.strip()]
    return wanted
