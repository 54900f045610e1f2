"""`quickstart`: train, evaluate, index, search and report on real pictures, within seven minutes on two cores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from counterpoint.data import open_rows
from counterpoint.evaluation.evaluate import evaluate
from counterpoint.index import embed, search
from counterpoint.reporting.figures import picture_grid
from counterpoint.reporting.report import report
from counterpoint.run import Run, build_system
from counterpoint.system import System
from counterpoint.training.randomness import seed_everything
from counterpoint.training.recipe import read_recipe
from counterpoint.training.train import train

__all__ = ["QUERIES", "faster_precision", "quickstart"]

QUERIES = (
    "something sweet to eat",
    "an animal that lives in the sea",
    "a vehicle with wheels",
    "musical instrument",
    "a happy face",
)
"""Written before any answer was seen; none of them is the name of a picture."""

_CUTS = (1, 5, 10)
_GALLERY = "emoji:test+validation"
"""One picture of each held-out concept."""


def quickstart(
    out: str | Path = "runs/quickstart",
    *,
    seconds: float = 280.0,
    seed: int = 0,
    precision: str | None = None,
) -> Run:
    """Train a small CLIP on emoji and their names, then evaluate it, index the pictures, search and write a report.

    The text tower is a frozen MiniLM with a trained projection, the image tower a small ResNet from scratch. Scores are
    those of 200 concepts that training never saw, one picture each, beside chance and the untrained model.

    Args:
        out: the run directory. A finished run there is kept and the next free number used; an unfinished one goes on.
        seconds: training time.
        seed: of weights, order and views.
        precision: "32-true" or "bf16-mixed"; by default whichever is faster on this machine.

    Returns:
        The finished run.
    """
    began, console = time.monotonic(), Console()
    path, resume = _place(Path(out))
    recipe = read_recipe("clip", "small")
    seed_everything(seed, "weights")
    untrained = build_system("clip", recipe.system).eval()
    console.print(f"Drawing pictures; training goes to {path} and takes {seconds:.0f} s")
    before = evaluate(untrained, "emoji:test", protocols=["retrieval"], seed=seed)
    overrides: dict[str, Any] = {"seconds": seconds, "seed": seed}
    if not resume:
        overrides["precision"] = precision or faster_precision(untrained)
        console.print(f"Precision {overrides['precision']}")
    run = train("clip", recipe="small", out=path, overrides=overrides, resume=resume)
    after = evaluate(run.path, "emoji:test", protocols=["retrieval"], seed=seed)
    flags = evaluate(run.path, "emoji:flags", protocols=["retrieval"], seed=seed, out=run.path / "flags.json")
    console.print(_scores_table(before, after))
    console.print(_flags_line(flags))
    table = embed(run.path, _GALLERY, out=run.path / "pictures.lance")
    page = report(run.path, data="emoji:test", queries=QUERIES)
    _answers_figure(table, run.path / "answers.png")
    _say_what_next(console, run.path, page, time.monotonic() - began)
    return run


def _place(out: Path) -> tuple[Path, bool]:
    """A free run directory, and whether an unfinished run lies there."""
    path, number = out, 1
    while (path / "config.yaml").is_file():
        if not Run(path).finished:
            return path, True
        number += 1
        path = out.with_name(f"{out.name}-{number}")
    return path, False


def faster_precision(system: System, *, rows: int = 64, repeats: int = 3) -> str:
    """Time the image tower forward and backward in float32 and under bfloat16 autocast; the name of the faster.

    Processors with matrix units for bfloat16 train nearly twice as fast with it, others slower.
    """
    size = int(system.encoder.size)  # type: ignore[arg-type]
    images = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0)).to(system.device)
    spent: dict[str, float] = {}
    for precision, half in (("32-true", False), ("bf16-mixed", True)):
        for _ in range(repeats):
            began = time.perf_counter()
            with torch.autocast(system.device.type, torch.bfloat16, enabled=half):
                rows_out = system.encode({"image": images})["image"]
            rows_out.float().sum().backward()
            if system.device.type == "cuda":
                torch.cuda.synchronize()
            spent[precision] = min(spent.get(precision, float("inf")), time.perf_counter() - began)
    system.zero_grad(set_to_none=True)
    return min(spent, key=lambda name: spent[name])


def _scores_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> Table:
    notes = after["protocols"]["retrieval"]
    table = Table(title=f"Recall on {notes['groups']} held-out concepts, gallery of {notes['gallery']} pictures")
    for column in ("", "chance", "untrained", "trained"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for source, target in (("text", "image"), ("image", "text")):
        for k in _CUTS:
            name = f"retrieval/{source}_to_{target}_recall@{k}"
            cells = [f"{found[name]:.3f}" for found in (after["chance"], before["scores"], after["scores"])]
            table.add_row(f"{source} -> {target} @{k}", *cells, end_section=k == _CUTS[-1])
    return table


def _flags_line(flags: Mapping[str, Any]) -> str:
    name = "retrieval/text_to_image_recall@10"
    return (
        f"Flags apart ({flags['data']['rows']} of them; nothing learned elsewhere names a flag): text -> image "
        f"recall@10 {flags['scores'][name]:.3f}, chance {flags['chance'][name]:.3f}"
    )


def _answers_figure(table: Path, path: Path) -> None:
    """The answers to five texts among pictures of concepts that training never saw, as one picture."""
    lines = []
    for query in QUERIES:
        found = search(table, query, top=8)
        pictures = [Image.open(BytesIO(row["thumbnail"])) for row in found]
        lines.append((query, [(picture, row["text"]) for picture, row in zip(pictures, found, strict=True)]))
    rows = len(open_rows(_GALLERY))
    picture_grid(lines, title=f"Five texts, answered among {rows} pictures of concepts never seen", path=path)


def _say_what_next(console: Console, path: Path, page: Path, seconds: float) -> None:
    console.print(f"\nDone in {seconds:.0f} s. Report: {page}")
    console.print("Three things to try next (the command is in .venv/bin):")
    for command in (
        f'.venv/bin/counterpoint search {path}/pictures.lance "a red fruit" --top 5',
        f".venv/bin/counterpoint doctor {path}",
        f".venv/bin/counterpoint export {path} --out {path}/export --format safetensors",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)
