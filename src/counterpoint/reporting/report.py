"""`report`: one page that shows what a run did, how well, on what, and how to do it again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from counterpoint import storage
from counterpoint.fitted import FittedClassifier
from counterpoint.reporting import gallery
from counterpoint.reporting.curves import add_training
from counterpoint.reporting.page import Html, Page, code, details, escape, paragraph, table
from counterpoint.reporting.repeat import repeat_command
from counterpoint.reporting.sample import open_report_rows, take_sample
from counterpoint.run import Run, load
from counterpoint.system import find_system

__all__ = ["report"]


def report(
    run: str | Path | Run,
    *,
    data: Any = None,
    queries: Sequence[str] | None = None,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    sample: int = 400,
    seed: int = 0,
) -> Path:
    """Write a run's page: curves, health, warnings, scores, pictures, and what it takes to repeat it.

    The page is one file: it fetches nothing, and reads well in the light, in the dark and on a phone.

    Args:
        run: the run directory.
        data: rows to show, whatever `open_rows` takes; by default the run's own data (of built-in sets the
            test split). When they are not there any more, the page says so and goes without pictures.
        queries: texts whose answers are shown, for image-text systems; by default captions of the data.
        out: the file; report.html in the run by default.
        columns: {conventional name: name in the data}.
        sample: at most so many rows are embedded and shown.
        seed: of the sample.

    Returns:
        Path of the page.

    Raises:
        ValueError: not a run directory, or one without weights; `data` that was given cannot be used.
    """
    if sample < 1:
        raise ValueError(f"sample must be at least 1, got {sample}")
    opened = run if isinstance(run, Run) else Run(run)
    info = _info(opened)
    page = Page(f"{opened.system_name}: {opened.path.resolve().name}", info.cls.paper if info is not None else "")
    add_training(page, opened)
    _add_scores(page, opened)
    _add_pictures(page, opened, data, queries, columns, sample, seed)
    _add_card(page, opened, info)
    return page.write(out if out is not None else opened.path / "report.html")


def _info(run: Run) -> Any:
    """The registered system, or None for a class of the user's own."""
    try:
        return find_system(run.system_name)
    except ValueError:
        return None


def _add_scores(page: Page, run: Run) -> None:
    """Every evaluation that is stored with the run, with what it takes to repeat it."""
    path = run.path / "evaluation.json"
    records = storage.read_json(path)["evaluations"] if path.is_file() else []
    if not records:
        ask = code(f"counterpoint evaluate {run.path}")
        page.section("Scores", paragraph("This run has not been evaluated yet.", "note"), ask)
        return
    content: list[Html] = []
    for record in records:
        data, chance = record["data"], record["chance"]
        split = f", split {data['split']}" if data.get("split") else ""
        content.append(Html(f"<h3>{escape(data['name'])}{escape(split)}, {data['rows']} rows</h3>"))
        rows = [(*name.partition("/")[::2], value, chance.get(name)) for name, value in record["scores"].items()]
        content.append(table(("protocol", "metric", "score", "chance"), rows))
        facts = {name: record.get(name) for name in ("protocols", "seed", "data", "train_data", "preprocessing")}
        facts |= {
            "not_run": record.get("not_run"),
            "skipped": record.get("skipped"),
            "versions": record.get("versions"),
        }
        shown = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
        content.append(details("protocol, seed, data, preprocessing, versions", code(shown)))
    page.section("Scores", *content)


def _add_pictures(
    page: Page,
    run: Run,
    data: Any,
    queries: Sequence[str] | None,
    columns: Mapping[str, str] | None,
    sample: int,
    seed: int,
) -> None:
    """What the model does with rows; a page without them when the run's own data are gone."""
    try:
        rows = open_report_rows(run, data, columns)
    except (ValueError, OSError) as error:
        if data is not None:
            raise
        words = f"No pictures: the run's data are not to be had here ({error}). Name others with --data."
        page.section("Pictures", paragraph(words, "note"))
        return
    try:
        system = load(run)
        taken = take_sample(system, rows, sample, seed)
    except (ValueError, NotImplementedError) as error:
        if data is not None:
            raise
        page.section("Pictures", paragraph(f"No pictures: {error}", "note"))
        return
    gallery.add_answers(page, taken, queries)
    if isinstance(system, FittedClassifier):
        gallery.add_predictions(page, system, taken)
    gallery.add_neighbours(page, taken)
    gallery.add_similarity(page, taken)
    gallery.add_map(page, taken, seed)


def _add_card(page: Page, run: Run, info: Any) -> None:
    """What the model is, what it was made from, and how to use and repeat it."""
    config = run.config
    content: list[Html] = []
    if info is not None:
        content.append(paragraph(inspect.cleandoc(info.cls.__doc__ or "").split("\n\nArgs:")[0]))
        content.append(paragraph(f"Paper: {info.cls.paper}"))
    rows = config.get("rows") or {}
    facts: list[tuple[str, Any]] = [
        ("system", run.system_name),
        ("data", ", ".join(map(str, config.get("data") or []))),
    ]
    facts += [(f"data, {name}", value) for name, value in rows.items() if isinstance(value, str | int)]
    facts += [(f"version of {name}", value) for name, value in (config.get("versions") or {}).items()]
    content.append(table(("", ""), facts))
    content.append(Html("<h3>Use it</h3>"))
    content.append(code(_usage(run)))
    command = repeat_command(run)
    if command is not None:
        content += [Html("<h3>Repeat it</h3>"), code(command)]
    shown = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    content.append(details("config.yaml", code(shown)))
    page.section("Model card", *content)


def _usage(run: Run) -> str:
    """Lines of Python that load the model."""
    lines = ["import counterpoint", "", f"model = counterpoint.load({str(run.path)!r})"]
    return "\n".join(lines)
