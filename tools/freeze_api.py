"""Write tests/api.txt anew: public names, signatures, command-line options. The test shows what changed.

`python tools/freeze_api.py` after a change that is meant; the file is then part of the change.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from counterpoint.cli import VERBS
from counterpoint.command.binding import BoundVerb
from counterpoint.system import list_systems

FILE = Path(__file__).parents[1] / "tests" / "api.txt"
MODULES = (
    "counterpoint",
    "counterpoint.data",
    "counterpoint.distributed",
    "counterpoint.encoders.clip",
    "counterpoint.encoders.image",
    "counterpoint.encoders.text",
    "counterpoint.evaluation",
    "counterpoint.geometry",
    "counterpoint.losses",
    "counterpoint.memory",
    "counterpoint.reporting.figures",
    "counterpoint.system",
    "counterpoint.views.image",
)
"""Modules whose public names people build on."""


def _members(value: type) -> list[str]:
    """Public methods and properties that a class defines itself."""
    lines = []
    for name, member in sorted(vars(value).items()):
        if name.startswith("_"):
            continue
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if inspect.isfunction(plain):
            lines.append(f"    .{name}{_signature(plain)}")
        elif isinstance(member, property):
            lines.append(f"    .{name}")
    return lines


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)  # annotations without their quotes
    return re.sub(r'(: |-> )"([^"]*)"', r"\1\2", text)


def _module(name: str) -> list[str]:
    module = importlib.import_module(name)
    lines = [f"[{name}]"]
    for public in sorted(module.__all__):
        value = getattr(module, public)
        if inspect.isclass(value):
            lines += [f"class {public}{_signature(value)}", *_members(value)]
        elif callable(value):
            lines.append(f"{public}{_signature(value)}")
        else:
            lines.append(f"{public}: {type(value).__name__}")
    return lines


def _verb(name: str) -> list[str]:
    parser = BoundVerb(name, VERBS[name], None).parser
    places = [option.name.upper() + count for option, count in parser.positionals]
    lines = [f"[counterpoint {name}]", " ".join(["places:", *places]).strip()]
    lines += [f"--{option.name.replace('_', '-')} {option.kind}" for option in parser.options]
    return [*lines, *(["--json"] if VERBS[name].json else [])]


def sections() -> dict[str, list[str]]:
    """Heading -> lines, for modules, verbs and systems."""
    found = [_module(name) for name in MODULES] + [_verb(name) for name in VERBS]
    for info in list_systems():
        found.append([f"[system {info.name}]", f"{info.cls.__name__}{_signature(info.cls)}"])
    return {lines[0]: lines[1:] for lines in found}


def render(found: dict[str, list[str]]) -> str:
    """The text of the file."""
    return "\n\n".join("\n".join([heading, *lines]) for heading, lines in found.items()) + "\n"


def read(text: str) -> dict[str, list[str]]:
    """The sections of a written file."""
    parts = [part.splitlines() for part in text.strip().split("\n\n")]
    return {lines[0]: lines[1:] for lines in parts}


if __name__ == "__main__":
    FILE.write_text(render(sections()), encoding="utf-8")
    print(f"wrote {FILE}")
