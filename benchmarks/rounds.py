"""Rounds of a work: every side in a fresh process, in turn, and what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.measures import share_of_copies, share_of_limit, summary
from benchmarks.work import OURS, Case, Disagreement, Options, cases_of, find_work, preparations_of

ROOT = Path(__file__).parents[1]
LIMITS_TIMEOUT = 300.0
Say = Callable[[str], None]


class Failure(Exception):
    """A process that gave no result: crashed, was ended, or took too long."""


def in_fresh_process(what: str, options: Options, timeout: float, **arguments: Any) -> dict[str, Any]:
    """What `child` printed.

    Raises:
        Failure: with the last line of its errors.
    """
    command = [sys.executable, "-m", "benchmarks.child", what, "--options", json.dumps(options.plain())]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    threads = str(options.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    environment |= {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true" if options.threads > 1 else "false"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"not done after {timeout:.0f} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        errors = [line for line in done.stderr.strip().splitlines() if line.strip()]
        reason = errors[-1].strip()[:300] if errors else "no message"
        how = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        raise Failure(f"{how}: {reason}")
    return dict(json.loads(lines[-1]))


def run_work(name: str, options: Options, *, rounds: int, say: Say) -> dict[str, Any]:
    """All cases of a work, as it is kept in `results`."""
    module = find_work(name)
    result: dict[str, Any] = {
        "work": name,
        "title": module.TITLE,
        "unit": module.UNIT,
        "date": date.today().isoformat(),
        "rounds": rounds,
        "options": {key: value for key, value in options.plain().items() if key != "round"},
        "machine": describe(),
        "prepared": _prepare(name, options, say),
    }
    cases = cases_of(name, options)
    result["cases"] = [_run_case(name, number, case, options, rounds, say) for number, case in enumerate(cases)]
    return result


def _prepare(name: str, options: Options, say: Say) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for number, preparation in enumerate(preparations_of(name, options)):
        say(f"{name}: preparing {preparation.name}")
        own = replace(options, threads=preparation.threads or options.threads)
        try:
            made[preparation.name] = in_fresh_process("prepare", own, preparation.timeout, work=name, number=number)
        except Failure as error:
            made[preparation.name] = {"error": str(error)}
            say(f"{name}: {preparation.name} failed: {error}")
    return made


def _run_case(work: str, number: int, case: Case, options: Options, rounds: int, say: Say) -> dict[str, Any]:
    options = replace(options, threads=case.threads or options.threads)
    sides: dict[str, dict[str, Any]] = {side: {"seconds": [], "megabytes": [], "held": []} for side in case.sides}
    limits: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        outputs = {side: Path(folder, f"{place}.npz") for place, side in enumerate(case.sides)}
        for turn in range(min(rounds, case.most_rounds or rounds)):
            own = replace(options, round=turn)
            limits.append(in_fresh_process("limits", own, LIMITS_TIMEOUT))
            for side, found in sides.items():
                if "error" in found:
                    continue  # what crashed once is not tried again: it may take minutes each time
                output = {"output": outputs[side]} if turn == 0 else {}
                try:
                    answer = in_fresh_process("side", own, case.timeout, work=work, number=number, side=side, **output)
                except Failure as error:
                    found["error"] = str(error)
                    say(f"{work}, {case.name}, {side}: {error}")
                    continue
                _collect(found, answer)
                say(f"{work}, {case.name}, {side}: {float(np.median(answer['seconds'])):.4g} s")
        agreement = _agreement(case, outputs)
    rates = {name: float(np.median([found[name] for found in limits])) for name in limits[0]}
    for found in sides.values():
        _conclude(found, rates.get(case.dtype), rates["copy"])
    return {
        "name": case.name,
        "items": case.items,
        "threads": options.threads,
        "dtype": case.dtype,
        "note": case.note,
        "limits": rates,
        "sides": sides,
        "agreement": agreement,
    }


def _collect(found: dict[str, Any], answer: Mapping[str, Any]) -> None:
    """Add a round: a process counts once, with the median of its runs."""
    found["seconds"].append(float(np.median(answer["seconds"])))
    found["megabytes"].append(answer["megabytes"])
    found["held"].append(answer["held"])
    found["flops"], found["moved"] = answer.get("flops"), answer.get("moved")
    for name, value in answer.get("facts", {}).items():
        found.setdefault("rounds of facts", {}).setdefault(name, []).append(value)


def _conclude(found: dict[str, Any], gigaflops: float | None, gigabytes: float) -> None:
    if found["seconds"]:
        found |= summary(found["seconds"])
        found["share"] = share_of_limit(found.get("flops"), found["median"], gigaflops)
        found["share of copies"] = share_of_copies(found.get("moved"), found["median"], gigabytes)
    found["facts"] = {name: float(np.median(values)) for name, values in found.get("rounds of facts", {}).items()}


def _agreement(case: Case, outputs: Mapping[str, Path]) -> dict[str, Any]:
    """How near every side's output is to that of our first side."""
    if case.compare is None or not outputs[next(iter(case.sides))].exists():
        return {}
    ours = _arrays(outputs[next(iter(case.sides))])
    found: dict[str, Any] = {}
    for side in list(case.sides)[1:]:
        if not outputs[side].exists():
            continue
        theirs = _arrays(outputs[side])
        pair = (theirs, ours) if side.startswith(OURS) else (ours, theirs)
        try:
            found[side] = dict(case.compare(*pair))
        except Disagreement as error:
            found[side] = {"disagreement": str(error)}
    return found


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
