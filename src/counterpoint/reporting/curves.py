"""The training part of a page: figures in numbers, warnings, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.reporting.figures import curve_figure
from counterpoint.reporting.page import Html, Page, findings, paragraph, table, tiles
from counterpoint.reporting.style import INLINE
from counterpoint.run import Run
from counterpoint.training.doctor import diagnose

__all__ = ["add_training"]

_HEALTH = {
    "effective_rank": ("effective rank", "How many directions the embedding uses. Near 1 it has collapsed."),
    "alignment": ("alignment", "Mean squared distance of positives. Lower: views of a row agree."),
    "uniformity": ("uniformity", "Lower: rows spread over the sphere. Near 0 they all sit in one place."),
    "duplicate_rate": ("duplicate rate", "Share of a batch with a near-duplicate in it: false negatives."),
    "hardest_share": (
        "push on the hardest negatives",
        "Share of the repulsion that falls on the most similar tenth of the negatives: 0.1 with a high temperature, 1 "
        "with a low one.",
    ),
    "gradient_norm": ("gradient norm", "Before clipping."),
    "update_ratio": ("update / weight", "How far one step moves the weights, relative to their size."),
    "learning_rate": ("learning rate", "The schedule, as it was used."),
    "examples_per_second": ("examples per second", "Rows trained on, all processes together."),
    "wait_share": ("waiting for data", "Share of the time that the model waited for rows."),
}
_MOST_POINTS = 400
_MOST_SKIPPED = 50

Records = Sequence[Mapping[str, Any]]


def add_training(page: Page, run: Run) -> None:
    """Add what a run tells about its training; nothing for a run of `fit`."""
    result = run.result() if (run.path / "result.json").is_file() else {}
    records = [record for record in run.metrics() if record.get("loss") is not None]
    page.intro(tiles(_tiles(run, records, result)))
    if run.fitted:
        _add_skipped(page, result)
        return
    found = [(finding.severity, finding.message, finding.remedy) for finding in diagnose(run)]
    page.section("Diagnosis", findings(found))
    if records:
        page.section("Training", page.charts(_loss_charts(page, records)))
        page.section("Health", page.charts(_health_charts(page, records)))
    _add_skipped(page, result)


def _tiles(run: Run, records: Records, result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    facts: list[tuple[str, Any]] = []
    if not run.fitted:
        facts.append(("steps" if run.finished else "steps so far", result.get("steps", _last(records, "step") or 0)))
    seconds = result.get("seconds", _last(records, "seconds"))
    if seconds is not None:
        facts.append(("training time", f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"))
    rows = (run.config.get("rows") or {}).get("count")
    if rows is not None:
        facts.append(("rows of data", int(rows)))
    if records:
        facts.append(("loss at the end", float(records[-1]["loss"])))
        if records[-1].get("guess") is not None:
            facts.append(("loss of a guesser", float(records[-1]["guess"])))
    if result.get("skipped"):
        facts.append(("rows skipped", len(result["skipped"])))
    return facts


def _last(records: Records, name: str) -> Any:
    return records[-1].get(name) if records else None


def _thinned(records: Records) -> Records:
    """At most so many points as a screen can show, first and last among them."""
    stride = max(1, -(-len(records) // _MOST_POINTS))
    return [*records[:-1:stride], records[-1]]


def _line(records: Records, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of the records that have the figure."""
    found = [(record["step"], record[name]) for record in _thinned(records) if record.get(name) is not None]
    return [float(step) for step, _ in found], [float(value) for _, value in found]


def _loss_charts(page: Page, records: Records) -> list[Html]:
    last = records[-1]
    guides = {"guessing": float(last["guess"])} if last.get("guess") is not None else None
    figure = curve_figure({"loss": _line(records, "loss")}, title="loss", guides=guides, theme=INLINE)
    words = "Dashed: the loss of somebody who guesses." if guides else ""
    charts = [page.chart(figure, "loss over steps", words)]
    names = sorted({name for record in records for name in record if name.startswith("loss/")})
    if len(names) > 1:
        lines = {name.removeprefix("loss/"): _line(records, name) for name in names}
        figure = curve_figure(lines, title="terms of the loss", theme=INLINE)
        charts.append(page.chart(figure, "terms of the loss over steps", "Unweighted."))
    return charts


def _health_charts(page: Page, records: Records) -> list[Html]:
    charts = []
    for name, (title, words) in _HEALTH.items():
        steps, values = _line(records, name)
        if steps:
            figure = curve_figure({title: (steps, values)}, title=title, theme=INLINE)
            charts.append(page.chart(figure, f"{title} over steps", words))
    return charts


def _add_skipped(page: Page, result: Mapping[str, Any]) -> None:
    """Rows that could not be used, and why."""
    skipped = result.get("skipped") or []
    if not skipped:
        return
    rest = len(skipped) - _MOST_SKIPPED
    more = paragraph(f"and {rest} more, all in result.json", "note") if rest > 0 else Html("")
    page.section("Skipped rows", table(("row", "why"), skipped[:_MOST_SKIPPED]), more)
