"""`make bench`: run works, keep their results, write docs/benchmarks.md and its figures.

python -m benchmarks                                  # every work
python -m benchmarks clip_loss nt_xent --rounds 5
python -m benchmarks --device cuda
python -m benchmarks --page                           # only write the page, from the results that are there
python -m benchmarks late_interaction --size tiny     # try the suite out; touches no page
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.machine import cores
from benchmarks.rounds import ROOT, run_work
from benchmarks.work import Options, cases_of, find_work, work_names

RESULTS = ROOT / "benchmarks" / "results"


def result_path(folder: Path, work: str, device: str) -> Path:
    """Where a work's result is kept."""
    return folder / (f"{work}.json" if device == "cpu" else f"{work}.{device}.json")


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 where nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"all by default: {', '.join(work_names())}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=Options.rows, help="of the table that is searched")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--results", type=Path, default=None, help="folder; no page is written from another one")
    parser.add_argument("--page", action="store_true", help="run nothing")
    chosen = parser.parse_args(arguments)
    folder = chosen.results or (RESULTS if chosen.size == "full" else ROOT / ".bench" / "tiny")
    options = Options(size=chosen.size, device=chosen.device, rows=chosen.rows, threads=chosen.threads)
    status = 0
    if not chosen.page:
        for name in chosen.works or work_names():
            find_work(name)  # a misspelt name is said before hours have passed
        status = _run(chosen.works or work_names(), options, chosen.rounds, folder)
    if folder == RESULTS:
        from benchmarks.page import write_page

        write_page(folder, ROOT / "docs")
    return status


def _run(works: list[str], options: Options, rounds: int, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    measured = 0
    for name in works:
        if not cases_of(name, options):
            continue
        began = time.perf_counter()
        result = run_work(name, options, rounds=rounds, say=lambda text: print(text, file=sys.stderr, flush=True))
        result["took"] = round(time.perf_counter() - began, 1)
        path = result_path(folder, name, options.device)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(result, indent=1, sort_keys=False) + "\n", encoding="utf-8")
        temporary.replace(path)
        measured += any(side["seconds"] for case in result["cases"] for side in case["sides"].values())
        print(f"{name}: {result['took']:.0f} s, {path}", file=sys.stderr, flush=True)
    return 0 if measured else 1


if __name__ == "__main__":
    sys.exit(main())
