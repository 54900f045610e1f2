"""`train`: from a system and data to a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from counterpoint import sealing, storage
from counterpoint.construction import complete, merged
from counterpoint.data import Rows
from counterpoint.distributed import (
    barrier,
    process_count,
    process_index,
    start,
)
from counterpoint.encoders import assets
from counterpoint.run import Run, build_system, finish_run, save_facts, write_config
from counterpoint.system import System, find_system
from counterpoint.training.agreement import counted, refuse_resuming
from counterpoint.training.checkpoint import Checkpoint, read_newest
from counterpoint.training.devices import claim_device
from counterpoint.training.loop import Trainer
from counterpoint.training.randomness import seed_everything
from counterpoint.training.recipe import Recipe, choose_recipe
from counterpoint.training.settings import RESUMABLE, TrainingSettings, merge_settings
from counterpoint.training.sharding import check_shard
from counterpoint.training.sources import Data, check_out, describe_data, open_data

__all__ = ["train"]


def train(
    system: str | System,
    data: Data = None,
    *,
    out: str | Path,
    recipe: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    settings: TrainingSettings | None = None,
    overrides: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a system and leave a run directory.

    Args:
        system: name of a registered system, or an instance.
        data: a built-in name, folder, table, tar shards, hub id, Rows, a list of rows, or a list of sources
            ("name=path" sets the column `source`). The recipe's by default.
        out: the run directory; must not hold another run unless `resume`.
        recipe: "paper", "small", "tiny"; without it `small`, or `paper` where a GPU is present. The choice is
            printed.
        arguments: of the system's constructor, on top of the recipe's.
        settings: all training settings at once instead of the recipe's.
        overrides: single training settings, on top of the recipe's or of `settings`.
        columns: renames columns, new name -> name in the data.
        resume: go on from the newest checkpoint in `out` with the run's own data and settings; the result equals an
            unbroken run to the bit, with another number of processes to rounding. Without a run in `out` it starts one.
        quiet: print nothing.

    Returns:
        The finished run.

    Raises:
        ValueError: unknown names, unusable values, missing columns, `out` taken, another run when resuming, or another
            number of processes that would make it another run (dropout or masks in the encoder).
        counterpoint.data.DataError: the data cannot be used.
        counterpoint.training.guard.NonFiniteError: loss or gradient became NaN or infinite.
        counterpoint.training.interrupt.Interrupted: Ctrl-C or SIGTERM; the state is saved.
    """
    start()
    path = Path(out)
    check_out(path, resume=resume)
    old = Run(path) if resume and (path / "config.yaml").is_file() else None
    barrier()  # every process has looked at `out` before process 0 writes into it
    base, why = (_of_run(old), "") if old is not None else _of_recipe(system, recipe)
    _say(why, quiet=quiet)
    own_data = data is not None and old is None  # what a recipe says of its own data is not true of others
    base = dataclasses.replace(
        base,
        data=base.data if data is None else data,
        columns={**({} if own_data else base.columns), **(columns or {})},
        system=merged(base.system, arguments or {}),
        training=merge_settings(dataclasses.asdict(settings) if settings else base.training, overrides),
    )
    job = _plan(system, base, group_is_asked_for=not own_data or "group" in (overrides or {}), quiet=quiet)
    return _carry_out(job, path, old, quiet=quiet)


@dataclasses.dataclass(frozen=True)
class _Job:
    """Everything that a run needs, checked."""

    system: System
    rows: Rows
    settings: TrainingSettings
    config: dict[str, Any]


def _plan(system: str | System, base: Recipe, *, group_is_asked_for: bool, quiet: bool) -> _Job:
    """Settings checked, data opened, system built, and the content of config.yaml."""
    settings = TrainingSettings.build(base.training)
    rows = open_data(base.data, base.columns)
    if settings.group is not None and settings.group not in rows.columns and not group_is_asked_for:
        _say(f"{rows.name} has no column {settings.group!r}: batches are drawn without groups", quiet=quiet)
        settings = dataclasses.replace(settings, group=None)
    claim_device(settings.device)
    settings = _fit_batch(settings, rows, system, quiet=quiet)
    seed_everything(settings.seed, "weights")
    built = build_system(system, base.system) if isinstance(system, str) else system
    _check_columns(built, rows)
    config = {
        "kind": "train",
        "system": _describe_system(system, built, base.system),
        "recipe": base.name,
        "training": _plain(settings),
        "data": describe_data(base.data, rows),
        "columns": dict(base.columns),
        "rows": {"count": len(rows), "fingerprint": rows.fingerprint},
    }
    return _Job(built, rows, settings, config)


def _carry_out(job: _Job, path: Path, old: Run | None, *, quiet: bool) -> Run:
    """Train from the beginning, or from the newest checkpoint of the run that is there."""
    checkpoint = None
    if old is not None:
        _check_same(old, job.config)
        if old.finished:
            _say(f"{path} is finished after {old.result()['steps']} steps: nothing to resume", quiet=quiet)
            return old
        checkpoint = _newest(old, job, quiet=quiet)
    check_shard(job.system, job.settings)
    with _leaving_nothing_untrained(path):
        _prepare(job, path, new=old is None)
        trainer = Trainer(job.system, job.rows, job.settings, path, checkpoint=checkpoint, quiet=quiet)
        del checkpoint  # the whole of weights and states; the trainer has taken its share
        result = trainer.run()
    if process_index() == 0:
        finish_run(path, job.system.state_dict(), result)
    barrier()
    job.system.eval()
    return Run(path)


@contextlib.contextmanager
def _leaving_nothing_untrained(path: Path) -> Iterator[None]:
    """A run that fails before its first figures does not stay in the way of the next attempt."""
    fresh = not path.exists() or not any(path.iterdir())
    try:
        yield
    except Exception:
        figures = path / "metrics.jsonl"
        begun = (path / "checkpoints").is_dir() or (figures.is_file() and figures.stat().st_size > 0)
        if fresh and process_index() == 0 and path.is_dir() and not begun:
            sealing.remove_directory(path)
        raise


def _say(text: str, *, quiet: bool) -> None:
    if text and not quiet and process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def _plain(settings: TrainingSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _of_recipe(system: str | System, name: str | None) -> tuple[Recipe, str]:
    if isinstance(system, str):
        return choose_recipe(find_system(system).name, name)
    if name is not None:
        return choose_recipe(type(system).__module__.rsplit(".", 1)[-1], name)
    return Recipe("none"), ""


def _of_run(run: Run) -> Recipe:
    """What a run was started with, in the form of a recipe."""
    if run.fitted:
        raise ValueError(f"{run.path} was made by `fit`: there is nothing to resume")
    config = run.config
    return Recipe(
        name=config.get("recipe", "none"),
        data=config.get("data"),
        columns=dict(config.get("columns") or {}),
        system=dict(config["system"].get("arguments") or {}),
        training=dict(config["training"]),
    )


def _fit_batch(settings: TrainingSettings, rows: Rows, system: str | System, *, quiet: bool) -> TrainingSettings:
    """A batch larger than the data becomes all the data, and says so; a batch of one is refused where rows meet."""
    if len(rows) == 0:
        raise ValueError(f"{rows.name} has no rows")
    if settings.batch > len(rows):
        _say(f"batch {settings.batch} is more than the {len(rows)} rows there are: it becomes {len(rows)}", quiet=quiet)
        settings = dataclasses.replace(settings, batch=len(rows))
    kind = find_system(system).cls if isinstance(system, str) else type(system)
    if settings.batch < 2 and getattr(kind, "couples", True):
        reason = f"{rows.name} has one row" if len(rows) == 1 else "batch=1"
        raise ValueError(f"{reason}: {kind.__name__} contrasts rows with each other and needs at least 2 in a batch")
    return settings


def _check_columns(system: System, rows: Rows) -> None:
    missing = [name for name in system.needs if name not in rows.columns]
    if missing:
        raise ValueError(
            f"{type(system).__name__} needs the column {missing[0]!r}; {rows.name} has {', '.join(rows.columns)}. "
            f"Rename one: columns {missing[0]}=NAME"
        )


def _describe_system(system: str | System, built: System, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What config.yaml says of the system; the arguments of an instance are not known."""
    named = isinstance(system, str)
    return {
        "name": find_system(system).name if isinstance(system, str) else type(built).__name__,
        "class": type(built).__name__,
        "arguments": complete(type(built), arguments) if named else None,
    }


def _check_same(run: Run, config: Mapping[str, Any]) -> None:
    """Refuse to go on with another system, other settings or other data.

    Raises:
        ValueError: names the first difference.
    """
    old, new = run.config["system"], config["system"]
    if (old.get("name"), old.get("class")) != (new["name"], new["class"]):
        raise ValueError(f"{run.path} holds a run of {old.get('name')}, not of {new['name']}: it cannot be resumed")
    pairs = [(old.get("arguments") or {}, new["arguments"] or {}), (run.config["training"], config["training"])]
    for before, now in pairs:
        for name in sorted(now.keys() | before.keys()):
            if name not in RESUMABLE and before.get(name) != now.get(name):
                raise ValueError(
                    f"{run.path} was started with {name}={before.get(name)!r}: it cannot be resumed with "
                    f"{now.get(name)!r}; give another out"
                )
    if run.config["rows"] != config["rows"]:
        raise ValueError(
            f"{run.path} was started on other data: {run.config['rows']['count']} rows with fingerprint "
            f"{run.config['rows']['fingerprint']}, now {config['rows']['count']} with "
            f"{config['rows']['fingerprint']}. Give the same data, or another out"
        )


def _newest(run: Run, job: _Job, *, quiet: bool) -> Checkpoint | None:
    found = read_newest(run.path / "checkpoints")
    if found is None:
        _say(f"{run.path} has no checkpoint yet: starting from the beginning", quiet=quiet)
        return None
    checkpoint, folder = found
    _say(f"resuming from {folder}", quiet=quiet)
    began_shared = bool(run.config["training"].get("shard"))
    refuse_resuming(run.path, checkpoint, job.system, job.settings, len(job.rows), began_shared=began_shared)
    if checkpoint.processes != process_count():
        began, now = counted(checkpoint.processes), counted(process_count())
        _say(f"the run began with {began}, goes on with {now}: the same to rounding", quiet=quiet)
    return checkpoint


def _prepare(job: _Job, path: Path, *, new: bool) -> None:
    """Facts about the data, and a run directory that says how to repeat the run."""
    path.mkdir(parents=True, exist_ok=True)
    if process_index() == 0:
        storage.remove_stale(path)
        storage.remove_stale(path / "checkpoints")
    if new:
        seed_everything(job.settings.seed, "facts")
        found = job.system.prepare(job.rows)
        if process_index() == 0:
            save_facts(path, found)
            assets.save(job.system, path / "assets")
            write_config(path, job.config)
    barrier()
    job.system.use(Run(path).facts())  # as a resumed or loaded system gets them, to the bit
