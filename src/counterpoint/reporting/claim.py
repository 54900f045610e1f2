"""The figure of a claim: both arms, the difference, the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from counterpoint.reporting.style import PAPER, SERIES, Theme, finish, new_figure, shortened, styled, wrapped

__all__ = ["Sweep", "claim_figure"]

Scores = Mapping[str, Mapping[str, Sequence[float]]]

_VERDICTS = {"holds": "#14a37f", "does not hold": "#d0453b", "inconclusive": "#7a8699"}


@dataclass(frozen=True)
class Sweep:
    """Arms that differ in one number.

    Attributes:
        argument: name of that number.
        values: arm -> its value, all above 0.
        metrics: keys of the scores that are drawn, a panel each.
    """

    argument: str
    values: Mapping[str, float]
    metrics: Sequence[str]


def claim_figure(
    scores: Scores,
    comparisons: Sequence[Any],
    *,
    title: str,
    sweep: Sweep | None = None,
    theme: Theme = PAPER,
    path: str | Path | None = None,
) -> Figure:
    """Every comparison of a claim: on the left both arms seed by seed, on the right the difference.

    Above them, when the claim has one, a sweep: each metric as a curve over a number that the arms differ in.

    Args:
        scores: arm -> metric -> one value a seed.
        comparisons: have name, treatment, baseline (an arm, or a number), metric, direction, margin,
            difference, interval (95 %), verdict, baseline_metric; see `counterpoint.claims.Comparison`.
        title: the claim.
        sweep: the curves.
        theme: colours.
        path: where it is saved, .png or .svg.
    """
    if not comparisons:
        raise ValueError("comparisons is empty: a claim needs at least one")
    with styled(theme):
        above = 0 if sweep is None else 1
        figure = new_figure(8.6, 0.9 + 1.35 * len(comparisons) + 2.4 * above)
        figure.suptitle(wrapped(title, 105), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        heights = [2.4 / 1.35] * above + [1.0] * len(comparisons)
        grid = figure.add_gridspec(len(heights), 2, width_ratios=(1.25, 1), height_ratios=heights)
        if sweep is not None:
            curves = grid[0, :].subgridspec(1, len(sweep.metrics), wspace=0.3)
            for place, metric in enumerate(sweep.metrics):
                _draw_curve(figure.add_subplot(curves[0, place]), scores, sweep, metric)
        for row, comparison in enumerate(comparisons, above):
            _draw_arms(figure.add_subplot(grid[row, 0]), scores, comparison, theme)
            _draw_difference(figure.add_subplot(grid[row, 1]), comparison, theme)
        return finish(figure, path)


def _draw_arms(axes: Any, scores: Mapping[str, Mapping[str, Sequence[float]]], comparison: Any, theme: Theme) -> None:
    """One line an arm: a dot a seed, a bar at the mean."""
    treated = scores[comparison.treatment][comparison.metric]
    arms: list[tuple[str, Sequence[float]]] = [(comparison.treatment, treated)]
    if isinstance(comparison.baseline, int | float):
        arms.append((f"{comparison.baseline:g} (fixed)", [float(comparison.baseline)]))
    else:
        other = comparison.baseline_metric
        name = comparison.baseline if other is None else f"{comparison.baseline},\n{other.rpartition('/')[2]}"
        arms.append((name, scores[comparison.baseline][other or comparison.metric]))
    axes.set_title(wrapped(comparison.name, 52))
    for place, (_, values) in enumerate(arms):
        height = len(arms) - 1 - place
        mean = float(np.mean(values))
        axes.plot(values, [height] * len(values), "o", color=SERIES[place], markersize=6, alpha=0.55)
        axes.plot([mean, mean], [height - 0.28, height + 0.28], color=SERIES[place], linewidth=2.5)
        axes.annotate(f"{mean:.3f}", (mean, height + 0.3), ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(arms)), [name for name, _ in reversed(arms)])
    axes.tick_params(axis="y", labelcolor=theme.ink, length=0)
    axes.set_ylim(-0.6, len(arms) - 0.2)
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{comparison.metric} ({comparison.direction} is better)")


def _draw_curve(axes: Any, scores: Scores, sweep: Sweep, metric: str) -> None:
    """A dot a seed and a line through the means, over the logarithm of the number."""
    arms = sorted(sweep.values, key=lambda arm: sweep.values[arm])
    places = [sweep.values[arm] for arm in arms]
    for arm, place in zip(arms, places, strict=True):
        values = scores[arm][metric]
        axes.plot([place] * len(values), values, "o", color=SERIES[0], markersize=5, alpha=0.55)
    axes.plot(places, [float(np.mean(scores[arm][metric])) for arm in arms], color=SERIES[0], linewidth=2)
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.set_title(shortened(metric, 40))
    axes.set_xlabel(sweep.argument)


def _draw_difference(axes: Any, comparison: Any, theme: Theme) -> None:
    """The mean difference and its interval against zero and the margin; the verdict in words."""
    low, high = comparison.interval
    colour = _VERDICTS.get(comparison.verdict, theme.muted)
    axes.axvline(0.0, color=theme.muted, linewidth=1.2)
    if comparison.margin:
        axes.axvline(comparison.margin, color=theme.muted, linestyle=(0, (4, 3)), linewidth=1.2)
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [0, 0], color=colour, linewidth=5, alpha=0.45, solid_capstyle="butt")
    axes.plot([comparison.difference], [0], "o", color=colour, markersize=8)
    axes.set_yticks([])
    axes.set_ylim(-1, 1)
    axes.margins(x=0.2)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(comparison.verdict, color=colour)
    axes.set_xlabel("difference, 95 % interval" if math.isfinite(low) else "difference, one seed: no interval")
