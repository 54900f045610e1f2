"""What a work is: cases, each with our side and its peers, how their outputs are compared, and bars to meet."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import ModuleType
from typing import Any

OURS = "counterpoint"
Arrays = Mapping[str, Any]
Compare = Callable[[Arrays, Arrays], Mapping[str, float]]
"""(ours, theirs) -> facts about how near they are; raises Disagreement."""


class Disagreement(Exception):
    """Two sides did not do the same work: their times must not be compared."""


@dataclass(frozen=True)
class Options:
    """What `make bench` is told, the same for every process.

    Attributes:
        size: "full", or "tiny" for trying the suite out: no figures of a tiny run reach the documentation.
        device: "cpu" or "cuda".
        rows: of the works that search.
        threads: of every process, unless the case says otherwise.
        round: number of the round, also the seed of works that draw.
    """

    size: str = "full"
    device: str = "cpu"
    rows: int = 100_000
    threads: int = 1
    round: int = 0

    @property
    def tiny(self) -> bool:
        """Whether this is a try."""
        return self.size == "tiny"

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass
class Job:
    """One side of a case, ready to run.

    Attributes:
        run: does the work once; may return the seconds of one unit itself where set-up is part of the call.
        output: what is compared with the other side's, computed outside the timing.
        warm: the same code on small inputs, so that libraries are loaded before memory is measured.
        open: what has to be loaded to run, if that counts as memory of the work.
        facts: figures beside time and memory, asked for after the runs.
        flops: of one unit; compared with the measured rate of matrix products.
        moved: bytes that one unit has to write at least; compared with the measured rate of copies.
    """

    run: Callable[[], float | None]
    output: Callable[[], Arrays] | None = None
    warm: Callable[[], object] | None = None
    open: Callable[[], object] | None = None
    facts: Callable[[], Mapping[str, float]] | None = None
    flops: float | None = None
    moved: float | None = None


@dataclass(frozen=True)
class Bar:
    """What has to be reached.

    Attributes:
        measure: "time" and "memory" (ratio ours / peer), "speed" (ratio of the rates ours / peer), "seconds" and
            "megabytes" (ours alone), "limit" (share of the matrix products' rate), or the name of a fact (ours).
        at_most, at_least: one of them is given.
        peer: whom the ratio is against; the first by default.
        side: which of our sides, "counterpoint" by default.
    """

    measure: str
    at_most: float | None = None
    at_least: float | None = None
    peer: str | None = None
    side: str = OURS


@dataclass(frozen=True)
class Case:
    """The same work done by several sides.

    Attributes:
        name: sizes, shortly.
        sides: name -> what makes the job in a fresh process; ours first, called "counterpoint...".
        items: things done in one unit, for rates; named by the work's UNIT.
        compare: of our outputs with each peer's; None where there is nothing to compare.
        bars: see `Bar`.
        threads: of every process; those of the options by default.
        dtype: of the matrix products that the hardware limit counts.
        repeat: seconds of timed runs in a process; one run at least.
        timeout: seconds a process may take.
        references: sides that are nobody's, to read the others by; no figure shows them as peers.
        most_rounds: of a case that takes minutes a round.
        note: what has to be known to read the figures.
    """

    name: str
    sides: Mapping[str, Callable[[], Job]]
    items: int = 1
    compare: Compare | None = None
    bars: Sequence[Bar] = ()
    threads: int | None = None
    dtype: str = "float32"
    repeat: float = 2.0
    timeout: float = 900.0
    references: tuple[str, ...] = ()
    most_rounds: int | None = None
    note: str = ""

    @property
    def peers(self) -> list[str]:
        """Names of the sides that are other libraries'."""
        return [name for name in self.sides if not name.startswith(OURS) and name not in self.references]


@dataclass(frozen=True)
class Preparation:
    """Something made once before the rounds, in a process of its own: cached inputs, an index."""

    name: str
    make: Callable[[], Mapping[str, float]]
    threads: int | None = None
    timeout: float = 7200.0
    facts: Mapping[str, float] = field(default_factory=dict)


def work_names() -> list[str]:
    """Every file in `works`."""
    package = importlib.import_module("benchmarks.works")
    return sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_"))


def find_work(name: str) -> ModuleType:
    """The module of a work, or `scaling`, which runs its points in the same way.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name == "scaling":
        return importlib.import_module("benchmarks.scaling")
    if name not in work_names():
        raise ValueError(f"no work is called {name!r}; there are: {', '.join(work_names())}")
    return importlib.import_module(f"benchmarks.works.{name}")


def cases_of(name: str, options: Options) -> list[Case]:
    """The cases of a work; none where the work is not for this device."""
    return list(find_work(name).cases(options))


def preparations_of(name: str, options: Options) -> list[Preparation]:
    """What a work wants made before its rounds."""
    make = getattr(find_work(name), "preparations", None)
    return list(make(options)) if make is not None else []


@contextmanager
def saying(text: str) -> Iterator[None]:
    """Put a text before the message of a Disagreement."""
    try:
        yield
    except Disagreement as error:
        raise Disagreement(f"{text}: {error}") from None
