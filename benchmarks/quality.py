"""Scores at equal cost: our systems and the peers' loops train the same encoder for the same seconds of the processor.

python -m benchmarks.quality                                # all works; in the environment of the peers (`.bench`)
python -m benchmarks.quality swav clip --seconds 45 --seeds 3
python -m benchmarks.quality clip --size tiny --seeds 1     # try it out; touches no page

What is counted: `time.process_time`, the seconds that all threads of this one process spend on the processor, on one
thread of torch and without loader processes. On either side they run from the first row that is read for the first
step until the first step that ends after the budget: reading, views, tokens, both passes, optimiser, and the checks and
log of the trainer. Making models and tables before it, and writing or scoring the result after it, are not counted.
Learning rates follow the same clock. A run of a second warms every side up before it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is loaded

import torch  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from benchmarks.quality_page import FILE, TITLES, paired_difference, told, verdict  # noqa: E402
from benchmarks.quality_peers import Budget  # noqa: E402
from benchmarks.quality_works import WORKS, Work  # noqa: E402
from benchmarks.rounds import ROOT  # noqa: E402
from benchmarks.work import OURS  # noqa: E402
from counterpoint.data import DataError, Rows, open_rows  # noqa: E402
from counterpoint.evaluation import evaluate  # noqa: E402
from counterpoint.system import System  # noqa: E402
from counterpoint.training import loop  # noqa: E402
from counterpoint.training.settings import TrainingSettings  # noqa: E402
from counterpoint.training.train import train  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
UNTRAINED = "untrained"
WARM_UP = 1.0
"""Seconds of the processor before a side is measured: first calls load code and choose kernels."""


def train_ours(system: System, rows: Rows, work: Work, seconds: float, seed: int) -> tuple[int, float]:
    """`counterpoint.train` with its clock set to the seconds of the processor; returns steps and seconds."""
    settings = {**work.training, "seconds": seconds, "seed": seed, "workers": 0, "device": "cpu"}
    clock = SimpleNamespace(perf_counter=time.process_time)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(loop, "time", clock):
        run = train(system, rows, out=Path(folder, "run"), settings=TrainingSettings.build(settings), quiet=True)
        result = run.result()
    return int(result["steps"]), float(result["seconds"])


def train_peer(system: System, rows: Rows, work: Work, side: str, seconds: float, seed: int) -> tuple[int, float]:
    """A peer's loop over the encoder of a system; returns steps and seconds."""
    system.train()
    budget = Budget(seconds)
    steps = work.peers[side].run(system, rows, work.training["batch"], budget, seed)
    return steps, budget.ended or budget.spent


def score(system: System, work: Work, seed: int) -> dict[str, float]:
    """The compared scores, by the same code and the same preprocessing whoever trained."""
    found = evaluate(system.eval(), **work.scored, columns=work.columns or None, seed=seed)["scores"]
    return {name: found[name] for name in work.metrics}


def run_work(work: Work, seconds: float, seeds: Sequence[int]) -> dict[str, Any]:
    """All sides of a work with every seed, in turn."""
    found = open_rows(work.data)
    rows = Rows.from_list([{name: row[name] for name in ("id", *work.kept)} for row in found], name=found.name)
    sides: dict[str, dict[str, Any]] = {
        name: {"scores": {metric: [] for metric in work.metrics}, "steps": [], "seconds": []}
        for name in (UNTRAINED, OURS, *work.peers)
    }
    for name in (OURS, *work.peers):
        _one(work, rows, name, min(WARM_UP, seconds), seeds[0])
    for seed in seeds:
        for name, side in sides.items():
            system, steps, spent = _one(work, rows, name, seconds, seed)
            scores = score(system, work, seed)
            for metric, value in scores.items():
                side["scores"][metric].append(value)
            side["steps"].append(steps)
            side["seconds"].append(round(spent, 2))
            told = ", ".join(f"{metric} {value:.4f}" for metric, value in scores.items())
            _say(f"  seed {seed}, {name}: {steps} steps in {spent:.1f} s, {told}")
    return {
        "note": work.note,
        "data": {"train": work.data, "rows": len(rows), "test": work.scored["data"]},
        "batch": work.training["batch"],
        "settings": {name: peer.settings for name, peer in work.peers.items()},
        "sides": sides,
        "differences": {
            name: {
                metric: paired_difference(sides[OURS]["scores"][metric], sides[name]["scores"][metric])
                for metric in work.metrics
            }
            for name in work.peers
        },
    }


def _one(work: Work, rows: Rows, side: str, seconds: float, seed: int) -> tuple[System, int, float]:
    """A side trained once, from weights that the seed alone decides."""
    torch.manual_seed(seed)
    system = work.build()
    if side == UNTRAINED:
        return system, 0, 0.0
    if side == OURS:
        return (system, *train_ours(system, rows, work, seconds, seed))
    return (system, *train_peer(system, rows, work, side, seconds, seed))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _report(work: Mapping[str, Any]) -> None:
    """The differences of a work."""
    for peer, metrics in work["differences"].items():
        for metric, found in metrics.items():
            _say(f"  {metric}, ours - {peer}: {told(found)} {verdict(found)}")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"all by default: {', '.join(WORKS)}")
    parser.add_argument("--seconds", type=float, default=None, help="of the processor, a side and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--results", type=Path, default=None, help="folder; no page is written from another one")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.works) - set(WORKS))
    if unknown:
        parser.error(f"no work is called {unknown[0]!r}; there are: {', '.join(WORKS)}")
    if chosen.seeds < 1 or (chosen.seconds is not None and not chosen.seconds > 0):
        parser.error(f"--seeds {chosen.seeds} and --seconds {chosen.seconds} must be above 0")
    tiny = chosen.size == "tiny"
    seconds = chosen.seconds or (0.5 if tiny else 45.0)
    folder = chosen.results or (ROOT / ".bench" / "tiny" if tiny else RESULTS)
    torch.set_num_threads(1)
    measured = 0
    for name in chosen.works or WORKS:
        _say(f"{TITLES[name]}: {seconds:g} s a side and seed")
        try:
            found = run_work(WORKS[name](tiny), seconds, range(chosen.seeds))
        except DataError as error:
            found = {"missing": str(error)}
            _say(f"  not measured: {error}")
        else:
            measured += 1
            _report(found)
        _store(folder / FILE, name, {**found, "budget": seconds, "size": chosen.size, "date": str(date.today())})
    if folder == RESULTS:
        from benchmarks.page import write_page

        write_page(folder, ROOT / "docs")
    return 0 if measured else 1


def _store(path: Path, name: str, found: Mapping[str, Any]) -> None:
    """Put a work beside those that were measured before."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps({**known, name: {**found, "machine": describe()}}, indent=1) + "\n", "utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
