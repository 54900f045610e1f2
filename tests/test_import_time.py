"""Importing the library and asking for help cost next to nothing, and load no torch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

ROUNDS = 5


def _seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def _least(measure: Callable[[], float], bar: float) -> float:
    """The least of several rounds: other work on the machine only ever adds. Stops as soon as the bar is met."""
    best = float("inf")
    for _ in range(ROUNDS):
        best = min(best, measure())
        if best < bar:
            break
    return best


def _loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in found.stdout.splitlines()}


HEAVY = {
    "torch",
    "numpy",
    "transformers",
    "timm",
    "open_clip",
    "matplotlib",
    "lancedb",
    "sklearn",
    "PIL",
    "jsonargparse",
}


def test_importing_loads_nothing_heavy() -> None:
    assert not _loaded("import counterpoint") & HEAVY


@pytest.mark.parametrize("argument", ["--help", "--version", "unknown-verb"])
def test_the_command_line_loads_nothing_heavy_before_a_verb(argument: str) -> None:
    code = (
        "import contextlib, io\nfrom counterpoint.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    main([{argument!r}])"
    )
    assert not _loaded(code) & HEAVY


def test_importing_takes_less_than_a_fifth_of_a_second_above_bare_python() -> None:
    def measure() -> float:
        return _seconds(sys.executable, "-c", "import counterpoint") - _seconds(sys.executable, "-c", "pass")

    assert _least(measure, 0.2) < 0.2


def test_help_takes_less_than_six_tenths_of_a_second() -> None:
    def measure() -> float:
        return _seconds(sys.executable, "-m", "counterpoint", "--help")

    assert _least(measure, 0.6) < 0.6
