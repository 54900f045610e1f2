"""One side of one case in a process of its own; prints a line of JSON. Started by `rounds`, not by hand."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Memory, held, limit_memory, measure_limits, synchroniser
from benchmarks.work import Job, Options, cases_of, preparations_of

MOST_RUNS = 30


def measure(make: Any, options: Options, *, repeat: float, output: Path | None) -> dict[str, Any]:
    """Build a job, run it once for its memory and to warm up, then again and again for its time."""
    job: Job = make()
    memory, wait = Memory(options.device), synchroniser(options.device)
    if job.warm is not None:
        job.warm()
        wait()
    known, before = memory.start(), held()
    if job.open is not None:
        job.open()
    job.run()
    wait()
    result: dict[str, Any] = {"megabytes": memory.extra() if known else None}
    gc.collect()
    result |= {"held": held() - before, "seconds": _timed(job, wait, repeat), "flops": job.flops, "moved": job.moved}
    if job.facts is not None:
        result["facts"] = dict(job.facts())
    if output is not None and job.output is not None:
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in job.output().items()}
        np.savez(output, **arrays)
    return result


def _timed(job: Job, wait: Any, repeat: float) -> list[float]:
    """Seconds of one unit in each run."""
    seconds: list[float] = []
    spent = 0.0
    while not seconds or (spent < repeat and len(seconds) < MOST_RUNS):
        began = time.perf_counter()
        own = job.run()
        wait()
        took = time.perf_counter() - began
        spent += took
        seconds.append(took if own is None else own)
    return seconds


def prepare(work: str, number: int, options: Options) -> Mapping[str, Any]:
    """Run one of a work's preparations, and say what it took."""
    chosen = preparations_of(work, options)[number]
    memory = Memory(options.device)
    known, began = memory.start(), time.perf_counter()
    facts = dict(chosen.make())
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "megabytes": memory.extra() if known else None, "facts": facts}


def main() -> None:
    """Read what to do from the command line, do it, print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["side", "limits", "prepare"])
    parser.add_argument("--work", default="")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--side", default="")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    options = Options(**arguments.options)
    import torch

    torch.set_num_threads(options.threads)
    limit_memory()
    result: Mapping[str, Any]
    if arguments.what == "limits":
        result = measure_limits(options.device)
    elif arguments.what == "prepare":
        result = prepare(arguments.work, arguments.number, options)
    else:
        case = cases_of(arguments.work, options)[arguments.number]
        result = measure(case.sides[arguments.side], options, repeat=case.repeat, output=arguments.output)
    sys.stdout.flush()
    print("\n" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
