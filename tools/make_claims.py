"""Reproduce every system's claim (or those named), keep figures and numbers in docs/, and write docs/claims.md anew."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from counterpoint.claims import reproduce
from counterpoint.system import list_systems

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "claims"

HEAD = """# Claims

What each paper claims over a named baseline, run at small scale by `counterpoint reproduce SYSTEM`: on real data where
a package carries some, else on data made by a seeded function (streets for lasers, films of moving pictures). Arms,
metric, direction, margin and seeds are fixed in the system's `claim.yaml` before anything runs. A comparison *holds*
when the whole 95 % confidence interval of the paired differences lies above the margin, *does not hold* when it lies at
or below, and is *inconclusive* else. `make claims` runs all of them and writes this page; the numbers are those in
`docs/claims/`.
"""


def run(names: list[str]) -> None:
    """Reproduce and store."""
    RESULTS.mkdir(exist_ok=True)
    (DOCS / "figures").mkdir(exist_ok=True)
    for name in names:
        result = reproduce(name, out=Path("runs") / "claims" / name)
        shutil.copy(Path("runs") / "claims" / name / "result.json", RESULTS / f"{name}.json")
        shutil.copy(str(result.figure), DOCS / "figures" / f"{name}.png")


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _section(result: dict[str, Any]) -> list[str]:
    name = result["system"]
    lines = [
        "",
        f"## {name}: {result['verdict']}",
        "",
        f"{result['claim']}. Seeds {', '.join(map(str, result['seeds']))}; {result['seconds']:.0f} s.",
        "",
        "| comparison | metric | better | treatment | baseline | difference (95 % interval) | margin | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for found in result["comparisons"]:
        treated = result["scores"][found["treatment"]][found["metric"]]
        low, high = found["interval"]
        mean = sum(treated) / len(treated)
        # A baseline may have another metric; the difference says its mean either way.
        means = [_number(mean), _number(mean - found["difference"] * (1 if found["direction"] == "higher" else -1))]
        difference = f"{_number(found['difference'])} ({_number(low)} to {_number(high)})"
        lines.append(
            f"| {found['name']} | {found['metric']} | {found['direction']} | {means[0]} | {means[1]} | {difference} | "
            f"{found['margin']:g} | {found['verdict']} |"
        )
    lines += ["", f"![{name}](figures/{name}.png)"]
    return lines + ["", *(f"- {note}" for note in result["notes"])] if result["notes"] else lines


def with_claims() -> list[str]:
    """Systems that have a claim; tasks have none."""
    recipes = resources.files("counterpoint") / "recipes"
    return [info.name for info in list_systems() if (recipes / info.name / "claim.yaml").is_file()]


def page() -> str:
    """docs/claims.md from the stored results; systems without one are named."""
    stored = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    lines = [HEAD.rstrip(), "", "| system | verdict |", "| --- | --- |"]
    lines += [f"| [{name}](#{name}-{r['verdict'].replace(' ', '-')}) | {r['verdict']} |" for name, r in stored.items()]
    missing = [name for name in with_claims() if name not in stored]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    for result in stored.values():
        lines += _section(result)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted != ["--page"]:
        run(wanted or with_claims())
    (DOCS / "claims.md").write_text(page(), encoding="utf-8")
