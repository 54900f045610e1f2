"""Importing, and asking for help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from benchmarks.work import OURS, Bar, Case, Job, Options

TITLE = "Importing the library and printing its help"
UNIT = "starts"


def start(command: Sequence[str]) -> Job:
    """A fresh interpreter that runs `command`."""
    return Job(lambda: None if subprocess.run([sys.executable, *command], check=True, capture_output=True) else None)


def cases(options: Options) -> list[Case]:
    """What the shell waits for, the interpreter's own start included."""
    if options.device != "cpu":
        return []
    imports = {OURS: "import counterpoint", "bare Python": "pass"}
    imports |= {name: f"import {name}" for name in ("sentence_transformers", "open_clip", "lightly")}
    sides = {name: partial(start, ["-c", code]) for name, code in imports.items()}
    note = "A fresh process each, files already in the system's cache. The start of bare Python is in all figures."
    bare = {"bare Python": partial(start, ["-c", "pass"])}
    return [
        Case("import", sides, bars=[Bar("seconds", 0.2)], note=note, repeat=4, references=("bare Python",)),
        Case(
            "counterpoint --help",
            {OURS: partial(start, ["-m", "counterpoint", "--help"]), **bare},
            bars=[Bar("seconds", 0.6)],
            note="The peers have no command of this kind.",
            repeat=4,
            references=("bare Python",),
        ),
    ]
