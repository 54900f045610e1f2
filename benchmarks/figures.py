"""Figures of the benchmarks: time and memory of ours as a share of the peer's, with bars and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measures import compared
from benchmarks.work import OURS, Options, cases_of, work_names

ROW = 0.34
"""Inches of a line."""


def draw(measured: Mapping[str, Mapping[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """The figures that the results allow: (file name, title). Those of results that are gone are removed."""
    found = []
    for what, measure in (("seconds", "time"), ("megabytes", "memory")):
        name = f"benchmark_{measure}.png"
        lines = ratios(measured, what)
        if lines:
            title = "Time: ours / peer" if measure == "time" else "Extra memory: ours / peer"
            _bars(lines, title, folder / name)
            found.append((name, title))
        else:
            (folder / name).unlink(missing_ok=True)
    return found


def ratios(measured: Mapping[str, Mapping[str, Any]], what: str) -> list[tuple[str, dict[str, float], float | None]]:
    """(label, ratio with its interval, bar) of every pair of ours and a peer that has one."""
    found = []
    for work in work_names():
        if work not in measured:
            continue
        cases = cases_of(work, Options(**measured[work]["options"]))
        for case, stored in zip(cases, measured[work]["cases"], strict=False):
            for peer in case.peers:
                ratio = compared(stored, OURS, peer, what)
                if ratio is not None and ratio["ratio"] > 0:
                    size = f", {case.name}" if len(cases) > 1 else ""
                    found.append((f"{work}{size}\n{peer}", ratio, _bar_of(case, peer, what)))
    return found


def _bar_of(case: Any, peer: str, what: str) -> float | None:
    """The bar on this ratio as one that has to be reached from below."""
    for bar in case.bars:
        if bar.side != OURS or (bar.peer or case.peers[0]) != peer:
            continue
        if what == "seconds" and bar.measure == "speed":
            return 1 / bar.at_least
        if bar.measure == ("time" if what == "seconds" else "memory"):
            return float(bar.at_most)
    return None


def _bars(lines: list[tuple[str, dict[str, float], float | None]], title: str, path: Path) -> None:
    from counterpoint.reporting.style import PAPER, SERIES, new_figure, save_figure, shortened, styled

    with styled(PAPER):
        figure = new_figure(7.2, 1.2 + ROW * len(lines))
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for place, (_, ratio, bar) in enumerate(reversed(lines)):
            colour = SERIES[0] if bar is None or ratio["ratio"] <= bar else SERIES[1]
            axes.plot([ratio["low"], ratio["high"]], [place, place], color=colour, linewidth=3, alpha=0.5)
            axes.plot(ratio["ratio"], place, "o", color=colour, markersize=6)
            axes.text(ratio["high"], place, f"   {ratio['ratio']:.2g}", va="center", fontsize=8)
            if bar is not None:
                axes.plot([bar, bar], [place - 0.36, place + 0.36], color=PAPER.ink, linewidth=1.6)
        axes.axvline(1.0, color=PAPER.muted, linestyle=(0, (4, 3)), linewidth=1)
        labels = ["\n".join(shortened(part, 60) for part in label.splitlines()) for label, *_ in reversed(lines)]
        axes.set_yticks(range(len(lines)), labels, fontsize=7)
        axes.set_ylim(-0.7, len(lines) - 0.3)
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:g}" if f"{value:g}"[-1] in "125" else "")
        axes.set_xlabel("less is better; dashed: equal; black: the bar; orange: above it; band: 95 %", fontsize=7)
        axes.margins(x=0.12)
        axes.set_title(title)
        axes.grid(visible=False, axis="y")
        save_figure(figure, path)
