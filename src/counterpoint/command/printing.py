"""How results look on a terminal: tables and the next step; or JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_json"]

_MOST_TEXT = 60

Values = Mapping[str, Any]


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def _plain(value: Any) -> Any:
    """JSON values; bytes (thumbnails) are left out, numbers that JSON does not have become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if hasattr(value, "trains"):
        return _system_facts(value)
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain(fields)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not isinstance(item, bytes)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.__name__ if isinstance(value, type) else str(value)


def print_json(result: Any) -> None:
    """Print a result as JSON."""
    print(json.dumps(_plain(result), indent=1, ensure_ascii=False))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = ()) -> None:
    # a Text, for brackets in people's words are no markup
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _console().print(table)


def _cell(value: Any) -> Any:
    if value is None:
        return Text("")
    return Text(f"{value:.4f}" if isinstance(value, float) else str(value))


def _next(*commands: str) -> None:
    print("\nnext:")
    for command in commands:
        print(f"  {command}")


def show_value(result: Any, values: Values) -> None:
    """Print whatever came back."""
    if result is not None:
        print(result)


def _system_facts(info: Any) -> dict[str, Any]:
    return {
        "name": info.name,
        "verb": "train" if info.trains else "fit",
        "modality": info.cls.modality,
        "columns": list(info.cls.needs),
        "summary": info.summary,
        "paper": info.cls.paper,
    }


def show_systems(result: Sequence[Any], values: Values) -> None:
    """Name, modality, needs and summary of every system."""
    rows = [
        (
            info.name,
            "train" if info.trains else "fit",
            info.cls.modality,
            ", ".join(info.cls.needs),
            info.summary,
        )
        for info in result
    ]
    _table(f"{len(rows)} systems", ("system", "verb", "modality", "columns", "summary"), rows)


def show_run(result: Any, values: Values) -> None:
    """Where the run lies and what to do with it."""
    path = Path(result.path)
    print(f"run: {path}")
    _next(f"counterpoint evaluate {path}", f"counterpoint report {path}", f"counterpoint doctor {path}")


def show_scores(result: Mapping[str, Any], values: Values) -> None:
    """Scores beside chance, and what was not run."""
    chance = result["chance"]
    rows = [(*name.partition("/")[::2], value, chance.get(name)) for name, value in result["scores"].items()]
    title = f"{result['model']['system']} on {result['data']['name']}, {result['data']['rows']} rows"
    _table(title, ("protocol", "metric", "score", "chance"), rows, numbers=("score", "chance"))
    if result["skipped"]:
        print(f"{len(result['skipped'])} rows were skipped")
    if result["not_run"]:
        print(f"not for these data and this model: {', '.join(result['not_run'])}; --protocols NAME says why")


def show_table(result: Any, values: Values) -> None:
    """Where the table lies and how to ask it."""
    from counterpoint.index.layout import open_table
    from counterpoint.system import list_systems

    print(f"table: {result}")
    found = open_table(result)
    name = found[1]["model"]["system"] if found else None
    modality = next((system.cls.modality for system in list_systems() if system.name == name), "")
    if "text" in modality:
        _next(f'counterpoint search {values["out"]} "a red door"')
    elif "image" in modality:
        _next(f"counterpoint search {values['out']} --image door.jpg")


def show_answers(result: Sequence[Mapping[str, Any]], values: Values) -> None:
    """Rank, score and what the rows say of themselves."""
    if not result:
        print("nothing was found")
        return
    wanted = [name for name in ("text", "label") if any(row.get(name) is not None for row in result)]
    wanted = wanted or [name for name in ("path",) if any(row.get(name) is not None for row in result)]
    rows = [
        (rank, float(row["score"]), row["id"], *(_shortened(row.get(name)) for name in wanted))
        for rank, row in enumerate(result, 1)
    ]
    what = values.get("query") or values.get("image")
    _table(f"answers to {what!r}", ("", "score", "id", *wanted), rows, numbers=("", "score"))


def _shortened(value: Any) -> str | None:
    text = None if value is None else " ".join(str(value).split())
    return text if text is None or len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def show_predictions(result: Any, values: Values) -> None:
    """What was written and what was skipped."""
    print(f"{result.task}: {result.predicted} of {result.rows} rows, in {result.path}")
    for row in list(result.skipped)[:5]:
        print(f"skipped: {row.id}: {row.reason}")


def show_report(result: Any, values: Values) -> None:
    """Where the page lies."""
    print(f"report: {result}")


def show_claim(result: Any, values: Values) -> None:
    """Both arms, the differences with their intervals, and the verdict."""
    _console().print(f"{result.system}: {result.claim}", markup=False)
    rows = []
    for arm, scores in result.scores.items():
        rows += [(arm, metric, sum(found) / len(found), len(found)) for metric, found in scores.items()]
    _table("scores, mean over the seeds", ("arm", "metric", "mean", "seeds"), rows, numbers=("mean", "seeds"))
    compared = [
        (c.name, c.metric, c.difference, "{:.4f} .. {:.4f}".format(*c.interval), c.verdict) for c in result.comparisons
    ]
    columns = ("comparison", "metric", "difference", "95 % interval", "verdict")
    _table("differences, positive is better", columns, compared, numbers=("difference",))
    for note in result.notes:
        print(f"note: {note}")
    figure = f", figure: {result.figure}" if result.figure else ""
    print(f"verdict: {result.verdict} ({result.seconds:.0f} s){figure}")


def show_parity(result: Mapping[str, Any], values: Values) -> None:
    """What was written and how far it is from the run."""
    print(f"{result['format']}: {', '.join(result['files'])} in {result['path']}")
    rows = [
        (name, f"{found['max_difference']:.1e}", found["top10_agreement"]) for name, found in result["parity"].items()
    ]
    print(f"compared on {result['compared_on']} with {result['checked_with']}")
    _table("parity with the run", ("tower", "max |difference|", "top-10 agreement"), rows)
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"\n{result['usage']}")


def show_nothing(result: Any, values: Values) -> None:
    """For verbs that print as they go."""
