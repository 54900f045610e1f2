"""How cost grows: each figure of docs/scale.md is measured here, or computed there from what is measured here.

    python -m benchmarks.scaling                  # some minutes on two cores; writes results/scale/scaling.json
    python -m benchmarks.scaling --size tiny      # tries it out, prints, writes nothing

Every point is a fresh process, with the same threads throughout.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import cores, describe
from benchmarks.rounds import ROOT, Failure, in_fresh_process
from benchmarks.tensors import loss_job, unit_rows
from benchmarks.work import Case, Job, Options

TITLE, UNIT = "How cost grows", "rows"
TARGET = ROOT / "benchmarks" / "results" / "scale" / "scaling.json"
REPEATS = 3


def clip(rows: int, width: int) -> Job:
    """The engine under every InfoNCE-like loss, forward and backward."""
    from counterpoint.losses import clip_loss

    leaves = unit_rows((rows, width), (rows, width), device="cpu")
    return loss_job(lambda image, text: clip_loss(image, text, logit_scale=14.0), leaves)


def tokens(rows: int, count: int) -> Job:
    """Late interaction with `count` tokens on either side."""
    from counterpoint.losses import late_interaction

    leaves = unit_rows((rows, count, 128), (rows, count, 128), device="cpu")
    return loss_job(lambda image, text: late_interaction(image, text, temperature=0.07), leaves)


def texts(length: int) -> Job:
    """64 texts of one length through MiniLM, without gradient."""
    from counterpoint.encoders.text import TextEncoder

    encoder = TextEncoder("minilm", max_length=512).eval()
    ids = torch.randint(1000, 20_000, (64, length), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def run() -> None:
        with torch.no_grad():
            encoder(given)

    return Job(run, warm=run)


def table(rows: int) -> Job:
    """A table of made vectors (which cost what real ones cost to write), and the index; seconds of a row."""
    from benchmarks.works.nearest_neighbours import Stored
    from counterpoint.data import Rows
    from counterpoint.index.table import embed

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "vectors.npy")
            vectors = np.random.default_rng(0).normal(size=(rows, 384)).astype(np.float32)
            np.save(path, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
            del vectors
            source = Rows.from_list([{"id": str(place), "text": f"text {place}"} for place in range(rows)])
            began = time.perf_counter()
            embed(Stored(path), source, out=Path(folder, "table"), rows_per_write=4096, index_above=0, thumbnail=0)
            return (time.perf_counter() - began) / rows

    return Job(run)


def workers(count: int) -> Job:
    """Loader processes that make SwAV's views of the built-in photographs; seconds of a picture."""
    from benchmarks.pictures import jpegs
    from counterpoint.data import Rows
    from counterpoint.data.loader import Loader
    from counterpoint.views.image import MultiCrop

    pictures = jpegs()
    many = [{"id": str(place), "image": pictures[place % len(pictures)]} for place in range(32 * len(pictures))]
    rows = Rows.from_list(many)

    def run() -> float:
        batches = Loader(rows, MultiCrop(), batch=len(pictures), seed=0, workers=count).batches(0)
        next(batches)  # the workers have started
        began, seen = time.perf_counter(), 0
        for batch in batches:
            seen += len(batch["_ids"])
        return (time.perf_counter() - began) / seen

    return Job(run)


def sweeps(options: Options) -> dict[str, tuple[Sequence[int], Callable[[int], Job]]]:
    """What is varied, alone: name -> (values, job of a value)."""
    small = options.tiny
    rows: Sequence[int] = (128, 256) if small else (4096, 8192, 16_384, 32_768)
    return {
        "rows of a CLIP loss, d = 256": (rows, lambda count: clip(count, 256)),
        "width of a CLIP loss, N = 8,192": (
            (32, 64) if small else (64, 128, 256, 512, 1024),
            lambda width: clip(128 if small else 8192, width),
        ),
        "tokens a side of late interaction, B = 128": (
            (4, 8) if small else (16, 32, 64, 128),
            lambda count: tokens(8 if small else 128, count),
        ),
        "tokens of a text, 64 texts": ((8, 16) if small else (16, 32, 64, 128, 256), texts),
        "workers of a loader, SwAV views": ((1,) if small else (1, 2), workers),
        "rows of a table": ((300, 600) if small else (25_000, 50_000, 100_000, 200_000), table),
    }


def cases(options: Options) -> list[Case]:
    """Every point as a case of its own, for `child`."""
    found = []
    for name, (values, make) in sweeps(options).items():
        found += [Case(f"{name}: {value}", {"counterpoint": _made(make, value)}, repeat=1.0) for value in values]
    return found


def _made(make: Callable[[int], Job], value: int) -> Callable[[], Job]:
    return lambda: make(value)


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log value by least squares: 1 is linear, 2 quadratic."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Seconds and extra memory of every point; the median of a few processes."""
    number = 0
    for name, (values, _) in sweeps(options).items():
        points = []
        for value in values:
            point: dict[str, Any] = {"value": value}
            try:
                answers = [
                    in_fresh_process("side", options, 1800, work="scaling", number=number, side="counterpoint")
                    for _ in range(1 if options.tiny else REPEATS)
                ]
                point["seconds"] = float(np.median([np.median(answer["seconds"]) for answer in answers]))
                held = [answer["megabytes"] for answer in answers if answer["megabytes"] is not None]
                point["megabytes"] = float(np.median(held)) if held else None
            except Failure as error:
                point["error"] = str(error)
            print(f"{name}: {point}", file=sys.stderr, flush=True)
            points.append(point)
            number += 1
        yield {"name": name, "points": points, **_slopes(points)}


def _slopes(points: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for what in ("seconds", "megabytes"):
        kept = [(point["value"], point[what]) for point in points if point.get(what) and point[what] > 0]
        found[f"exponent of {what}"] = exponent(*zip(*kept, strict=True)) if len(kept) > 1 else None
    return found


def main() -> None:
    """Measure everything, write the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--page", action="store_true", help="only write docs/scale.md from the file that is there")
    arguments = parser.parse_args()
    options = Options(size=arguments.size, threads=arguments.threads)
    if not arguments.page:
        limits = in_fresh_process("limits", options, 300)
        result = {
            "date": date.today().isoformat(),
            "machine": describe(),
            "options": asdict(replace(options, round=0)),
            "limits": limits,
            "sweeps": list(measure(options)),
        }
        if options.tiny:
            print(json.dumps(result, indent=1))
            return
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        TARGET.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    from benchmarks.scale_page import write_page

    write_page(TARGET, ROOT / "docs")


if __name__ == "__main__":
    main()
