"""What the scores of `python -m benchmarks.quality` say, and their section of docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path("quality", "quality.json")
"""Below the folder of results."""
MISSING = "not measured"
TITLES = {
    "swav": "SwAV on mnist5k, against lightly",
    "simclr": "SimCLR on stamps, against lightly",
    "simcse": "SimCSE on lee, against sentence-transformers",
    "clip": "CLIP on emoji, against open_clip",
}
HEAD = """Our systems and the published loops of the peers train the same encoder, from the same weights, on the same
rows in the same batches, for the same seconds of the processor; one code scores both, on rows that neither saw. Apart
from that each has its own settings; a peer with "our settings" has our optimiser, learning rates, widths and
temperature, as far as its classes allow. Nothing was tuned for this comparison; what our recipes were made for is said.

Counted are the seconds that all threads of a process spend on the processor (one thread of torch, no loader processes),
from the first row that is read until the first step that ends after the budget: views, tokens, both passes, optimiser,
and the checks and log of the trainer. Making models and tables before, writing and scoring after are not counted.

Differences are ours less the peer's, seed by seed: their mean and its 95 % interval by Student's t. The bar is 0; a
verdict whose interval holds 0 is marked with a question mark. `python -m benchmarks.quality` runs it."""


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Mean of ours - theirs, seed by seed, and its 95 % interval by Student's t; no interval for one seed.

    Raises:
        ValueError: unequal numbers of seeds, or none.
    """
    from scipy.stats import t

    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"both sides need the same seeds, at least one; got {len(ours)} and {len(theirs)}")
    found = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    mean = float(found.mean())
    if len(found) == 1:
        return {"mean": mean, "low": None, "high": None}
    reach = float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def verdict(difference: Mapping[str, float | None]) -> str:
    """`met` where ours is at least the peer's, else `missed`; with `?` where the interval leaves it open."""
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    assert mean is not None
    word = "met" if mean >= 0 else "missed"
    sure = low is not None and high is not None and (low >= 0 or high < 0)
    return word if sure else f"{word}?"


def told(difference: Mapping[str, float | None]) -> str:
    """Mean and interval."""
    low, high = difference["low"], difference["high"]
    interval = "no interval" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"
    return f"{difference['mean']:+.3f} {interval}"


def section(results: Path) -> Iterator[str]:
    """Parts of the page, from the results in a folder; what is not there is said to be not measured."""
    path = results / FILE
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    yield "## Quality at equal cost"
    yield HEAD
    yield "\n".join(_overview(found))
    for name, title in TITLES.items():
        if "sides" in found.get(name, {}):
            yield from _work(title, found[name])


def _overview(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| work | score | against | ours - theirs | at least the peer's |"
    yield "| --- | --- | --- | --- | --- |"
    for name, title in TITLES.items():
        work = found.get(name, {})
        if "differences" not in work:
            reason = "its data could not be had" if "missing" in work else MISSING
            yield f"| {title} | | | {reason} | {MISSING} |"
            continue
        for peer, metrics in work["differences"].items():
            for metric, difference in metrics.items():
                yield f"| {title} | {metric} | {peer} | {told(difference)} | {verdict(difference)} |"


def _work(title: str, work: Mapping[str, Any]) -> Iterator[str]:
    """Every score of a work."""
    yield f"### {title}"
    sides, machine = work["sides"], work["machine"]
    metrics = list(next(iter(sides.values()))["scores"])
    lines = [
        f"| side | steps | {' | '.join(metrics)} |",
        f"| --- | --- |{' --- |' * len(metrics)}",
    ]
    for name, side in sides.items():
        scores = (
            f"{np.mean(side['scores'][metric]):.3f} ({', '.join(f'{value:.3f}' for value in side['scores'][metric])})"
            for metric in metrics
        )
        lines.append(f"| {name} | {', '.join(map(str, side['steps']))} | {' | '.join(scores)} |")
    yield "\n".join(lines)
    data = work["data"]
    settings = "; ".join(f"{name}: {text}" for name, text in work["settings"].items())
    spent = [value for side in sides.values() for value in side["seconds"] if value]
    yield (
        f"{data['rows']:,} rows of `{data['train']}`, scored on `{data['test']}`, batches of {work['batch']}, a "
        f"budget of {work['budget']:g} s ({min(spent):.1f} to {max(spent):.1f} spent with the last step), mean and "
        f"each seed; {machine['processor']}, {work['date']}. {work['note']} Settings of {settings}."
    )
