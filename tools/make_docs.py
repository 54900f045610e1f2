"""Write the generated pages anew: docs/reference.md from the signatures, docs/systems/README.md from the registry."""

from __future__ import annotations

import os
from pathlib import Path

from counterpoint.cli import VERBS
from counterpoint.command.binding import BoundVerb
from counterpoint.command.parser import shown
from counterpoint.command.signature import Option
from counterpoint.system import list_systems

DOCS = Path(__file__).parents[1] / "docs"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _row(option: Option, place: bool) -> str:
    name = option.name.upper() if place else f"`--{option.name.replace('_', '-')}`"
    default = "required" if option.required else "" if option.default in (None, "", ()) else shown(option.default)
    kind = "text" if place else option.kind.removesuffix(" or none")
    return f"| {name} | {_cell(kind)} | {_cell(default)} | {_cell(option.text)} |"


def reference() -> str:
    """Every option of every verb, from the signatures of the library's functions."""
    parts = [
        "# Reference of the command line",
        "",
        "Made by `make docs` from the signatures; every verb is the function of the same name in Python. What a system",
        "adds to `train` and `fit` is shown by `counterpoint train SYSTEM --help` and on its page.",
    ]
    for name, verb in VERBS.items():
        parser = BoundVerb(name, verb, None).parser
        parts += ["", f"## {name}", "", verb.summary[0].upper() + verb.summary[1:] + f" ([page](verbs/{name}.md)).", ""]
        rows = [_row(option, place=True) for option, _ in parser.positionals]
        rows += [_row(option, place=False) for option in parser.options]
        if verb.json:
            rows.append("| `--json` | true or false | | prints the result for machines. |")
        if rows:
            parts += ["| option | takes | default | |", "| --- | --- | --- | --- |", *rows]
        else:
            parts.append("No options.")
    return "\n".join(parts) + "\n"


def systems_index() -> str:
    """One line a system, found by name."""
    lines = [
        "# Systems",
        "",
        "One file a paper in `src/counterpoint/systems/`. Made by `make docs` from the registry; `counterpoint",
        "systems` prints the same.",
        "",
        "| system | verb | reads | what it is |",
        "| --- | --- | --- | --- |",
    ]
    for info in list_systems():
        page = DOCS / "systems" / f"{info.name}.md"
        name = f"[`{info.name}`]({info.name}.md)" if page.is_file() else f"`{info.name}`"
        needs = ", ".join(f"`{column}`" for column in info.cls.needs)
        lines.append(f"| {name} | `{'train' if info.trains else 'fit'}` | {needs} | {_cell(info.summary)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    (DOCS / "reference.md").write_text(reference(), encoding="utf-8")
    (DOCS / "systems" / "README.md").write_text(systems_index(), encoding="utf-8")
    print(f"wrote {DOCS / 'reference.md'} and {DOCS / 'systems' / 'README.md'}")
