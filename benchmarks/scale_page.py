"""docs/scale.md: growth as it was measured, and what follows from it for more machines, with the arithmetic shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HEAD = """# Scale

How cost grows with the batch, the width, the tokens and the rows: first as it was **measured** on one machine, then as
it is **modelled** from these figures for more of them. The page is written by `python -m benchmarks.scaling`; no figure
is typed by hand.
"""
DEVICES = (1, 8, 256)
BATCH, WIDTH = 1_048_576, 512
"""Of the modelled loss: a million pairs, CLIP's width."""
ROWS, BYTES_OF_TEXT = 1_000_000_000, 100
LINK = 25e9
"""Bytes a second and device that the modelled network moves: assumed, 200 Gbit/s."""
RATE = 100e12
"""Operations a second of the modelled card in the loss's products: assumed."""
ID_BYTES = 110
"""Of one id in a Python set: some 60 of the text and 50 of its share of the table."""


def write_page(result: Path, docs: Path) -> Path:
    """Write the page from the measured file, or say that there is none."""
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
    parts = [HEAD, *_measured(found), *_loss(found), *_corpus(found), *_bounds()]
    page = docs / "scale.md"
    page.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
    return page


def _measured(found: Mapping[str, Any] | None) -> Iterator[str]:
    yield "## Measured"
    if found is None:
        yield "Not measured yet: run `python -m benchmarks.scaling`."
        return
    machine, limits = found["machine"], found["limits"]
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {found['options']['threads']} threads, torch "
        f"{machine['packages']['torch']}, {found['date']}; matrix products at {limits['float32']:.0f} GFLOP/s in "
        "float32. Every point is the median of fresh processes. The exponent is the slope of log cost over log value: "
        "1 is linear, 2 quadratic. Memory is what a run takes above its inputs, gradients included."
    )
    for sweep in found["sweeps"]:
        yield f"### {sweep['name'][0].upper()}{sweep['name'][1:]}"
        yield "\n".join(_points(sweep))


def _points(sweep: Mapping[str, Any]) -> Iterator[str]:
    yield "| value | seconds | extra memory, MB |"
    yield "| --- | --- | --- |"
    for point in sweep["points"]:
        if "error" in point:
            yield f"| {point['value']:,} | failed: `{point['error']}` | |"
            continue
        memory = "not measured" if point["megabytes"] is None else f"{point['megabytes']:.0f}"
        yield f"| {point['value']:,} | {point['seconds']:.4g} | {memory} |"
    slopes = [sweep[f"exponent of {what}"] for what in ("seconds", "megabytes")]
    yield f"| exponent | {' | '.join('' if slope is None else f'{slope:.2f}' for slope in slopes)} |"


def _loss(found: Mapping[str, Any] | None) -> Iterator[str]:
    """A loss over the batch of many devices."""
    operations = 4 * 2 * BATCH**2 * WIDTH
    features = BATCH * WIDTH * 4
    yield "## Modelled: one loss over the batches of many devices"
    yield (
        f"Assumed, not measured: {RATE / 1e12:.0f} TFLOP/s a device in these products and {LINK / 1e9:.0f} GB/s a "
        f"device on the network. A CLIP loss over N = {BATCH:,} pairs of width d = {WIDTH}, float32, its work shared "
        "out over G devices:"
    )
    yield (
        f"- operations: 4 products of N x N x d, 4 * 2 * N^2 * d = {operations:.3g}, of which each device does 1 / G;\n"
        "- memory of a device: features of both sides and their gradients, 4 * N * d * 4 bytes = "
        f"{4 * features / 2**30:.0f} GB, for any G, and a few tiles; the matrix itself would be N^2 * 4 bytes = "
        f"{BATCH**2 * 4 / 2**40:.0f} TB;\n"
        f"- moved by a device: the features of both sides gathered, and their gradients reduced and scattered, "
        f"4 * N * d * 4 bytes * (G - 1) / G."
    )
    lines = ["| devices | pairs each | compute, s | moved, GB | network, s |", "| --- | --- | --- | --- | --- |"]
    for count in DEVICES:
        moved = 4 * features * (count - 1) / count
        compute = operations / count / RATE
        lines.append(f"| {count} | {BATCH // count:,} | {compute:.3g} | {moved / 2**30:.3g} | {moved / LINK:.2g} |")
    yield "\n".join(lines)
    if found is not None:
        own = operations / (found["limits"]["float32"] * 1e9)
        yield f"On the machine measured above the products alone would take {own / 60:.0f} minutes."


def _corpus(found: Mapping[str, Any] | None) -> Iterator[str]:
    """A billion texts."""
    yield "## Modelled: a table of a billion texts"
    vector, code = 384 * 4, 384
    ids = ROWS * ID_BYTES
    disk = ROWS * (vector + code + BYTES_OF_TEXT)
    yield (
        f"384 dimensions in float32, one byte a dimension in the index, {BYTES_OF_TEXT} bytes of text: {ROWS:,} * "
        f"({vector} + {code} + {BYTES_OF_TEXT}) bytes = {disk / 1e12:.1f} TB on disk. `embed` holds the ids of the "
        f"rows that a table has already, some {ID_BYTES} bytes each in a Python set: {ids / 1e9:.0f} GB for a table of "
        f"a billion, {ids / 256 / 1e9:.2g} GB for each of 256. A billion rows are many tables."
    )
    costs = _per_row(found)
    if not costs:
        yield "Seconds of a row have not been measured yet: run `python -m benchmarks.scaling`."
        return
    lines = ["| machines like the one measured | embedding, days | writing and indexing, days |", "| --- | --- | --- |"]
    for count in DEVICES:
        days = [ROWS * cost / count / 86_400 for cost in costs]
        lines.append(f"| {count} | {days[0]:.3g} | {days[1]:.3g} |")
    yield (
        f"MiniLM at {1e6 * costs[0]:.0f} microseconds a text of 16 tokens, the table at {1e6 * costs[1]:.0f} "
        "microseconds a row at the largest size measured; machines share nothing, so both are divided by their number."
    )
    yield "\n".join(lines)


def _per_row(found: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Seconds to embed a text of 16 tokens, and to put a row into a table."""
    if found is None:
        return None
    sweeps = {sweep["name"]: [point for point in sweep["points"] if "seconds" in point] for sweep in found["sweeps"]}
    short = [point["seconds"] / 64 for point in sweeps["tokens of a text, 64 texts"] if point["value"] == 16]
    rows = [point["seconds"] for point in sweeps["rows of a table"]]
    return (short[0], rows[-1]) if short and rows else None


def _bounds() -> Iterator[str]:
    yield "## What this does not say"
    yield (
        "Nothing above was run on a GPU or on more than one machine: the modelled figures leave out start-up, "
        "stragglers, overlap of network and compute, and the encoder, which at these batches takes most of the time. "
        "The search of a table was measured at the size in [benchmarks](benchmarks.md), not at a billion rows."
    )
