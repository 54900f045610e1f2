"""Settings that the tasks share, and the names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options", "read_class_names"]


@dataclass(frozen=True)
class Options:
    """What the caller of `predict` asked for.

    Attributes:
        out: folder of the answers; tasks that make pictures put them here.
        class_names: classes to choose from, for models that are told them.
        top: how many classes are listed for a row.
        batch: rows at once.
        workers: processes that decode.
    """

    out: Path
    class_names: tuple[str, ...] = ()
    top: int = 5
    batch: int = 64
    workers: int = 0


def read_class_names(classes: str | Path | Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes: a sequence, "red,green", or a text file with one a line.

    Raises:
        ValueError: fewer than two, or one twice.
    """
    if classes is None:
        return ()
    if isinstance(classes, Path) or (isinstance(classes, str) and "," not in classes and Path(classes).is_file()):
        names = [line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines()]
    elif isinstance(classes, str):
        names = [name.strip() for name in classes.split(",")]
    else:
        names = [str(name).strip() for name in classes]
    names = [name for name in names if name]
    if len(names) < 2:
        raise ValueError(f"classes needs at least two names, as in 'red,green' or a text file, got {names}")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"classes names {sorted(twice)[0]!r} twice")
    return tuple(names)
