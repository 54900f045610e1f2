"""One call that runs every protocol the data allow, and stores what it takes to repeat the scores."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from counterpoint.data import Rows, list_builtins, open_rows
from counterpoint.data.open import builtin_module
from counterpoint.evaluation.model import Model, describe_preprocessing, open_model
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol, choose_protocols
from counterpoint.evaluation.task import Task
from counterpoint.run import versions
from counterpoint.storage import read_json, write_json

__all__ = ["evaluate"]

_FORMAT = 1
_PACKAGES = ("numpy", "scikit-learn", "scipy", "pillow")
_SPLITS = ("test", "validation")


def evaluate(
    model: Any,
    data: Any = None,
    *,
    protocols: Sequence[str] | Mapping[str, Mapping[str, Any] | None] | None = None,
    train_data: Any = None,
    seed: int = 0,
    out: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    batch: int = 64,
    workers: int = 0,
) -> dict[str, Any]:
    """Score a model with every protocol that the data allow.

    A `label` column allows kNN, linear probe, few-shot and, for image-text models, zero-shot; `target` regression;
    `image` and `text` allow retrieval both ways; `query` and `positive` passage retrieval; `text`, `other` and `score`
    STS; anything geometry.

    Args:
        model: run directory, system, or fitted classifier.
        data: what `open_rows` takes. A built-in set without a split means its test split. None means the data
            that the run was trained on.
        protocols: names, or name -> settings; None runs all that apply. One asked for by name that does not
            apply is an error.
        train_data: labelled rows that kNN and the probes learn from. Without it: the train split of a
            built-in set, else four fifths of the given rows (then only the other fifth is scored).
        seed: of every draw.
        out: JSON file for the record; for a run the default is its evaluation.json.
        columns: {conventional name: name in the data}.
        batch: rows computed at once.
        workers: processes that decode.

    Returns:
        {"scores": {"protocol/metric": number}, "chance": {the same names where a guesser has a value},
        "protocols": {name: settings and notes}, "not_run": {name: reason}, "seed", "model", "data",
        "train_data", "preprocessing", "skipped", "versions", "format"}.

    Raises:
        ValueError: no protocol applies, or one asked for does not.
    """
    opened = open_model(model)
    chosen, by_name = choose_protocols(protocols)
    data = _default_data(opened) if data is None else data
    rows, split = _open_scored(data, columns)
    train_rows, train_source = _open_train(data, train_data, rows, columns)
    task = Task(
        opened.system,
        rows,
        train_rows=train_rows,
        train_source=train_source,
        seed=seed,
        batch=batch,
        workers=workers,
    )
    measured, refused = _run(chosen, task, strict=by_name)
    if not measured:
        raise ValueError(
            f"no protocol applies to {rows.name}: " + "; ".join(f"{n} {why}" for n, why in refused.items())
        )
    record = {
        "format": _FORMAT,
        "scores": _flat({name: found.scores for name, (_, found) in measured.items()}),
        "chance": _flat({name: found.chance for name, (_, found) in measured.items()}),
        "protocols": {n: {"settings": p.settings(), **found.notes} for n, (p, found) in measured.items()},
        "not_run": refused,
        "seed": seed,
        "model": opened.describe(),
        "data": _describe(rows, split),
        "train_data": None if train_rows is None else {**_describe(train_rows, None), "source": train_source},
        "preprocessing": describe_preprocessing(opened.system),
        "skipped": [{"id": name, "reason": reason} for name, reason in sorted(task.skipped.items())],
        "versions": _versions(),
    }
    target = out if out is not None else opened.path / "evaluation.json" if opened.path is not None else None
    if target is not None:
        _store(Path(target), record)
    return record


def _run(
    protocols: Sequence[Protocol], task: Task, *, strict: bool
) -> tuple[dict[str, tuple[Protocol, Measured]], dict[str, str]]:
    measured: dict[str, tuple[Protocol, Measured]] = {}
    refused: dict[str, str] = {}
    for protocol in protocols:
        try:
            protocol.check_columns(task.rows.columns)
            measured[protocol.name()] = (protocol, protocol.run(task))
        except NotApplicable as error:
            if strict:
                raise ValueError(f"protocol {protocol.name()!r} cannot be run on {task.rows.name}: {error}") from error
            refused[protocol.name()] = str(error)
    return measured, refused


def _flat(by_protocol: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{protocol}/{name}": value for protocol, found in by_protocol.items() for name, value in found.items()}


def _default_data(opened: Model) -> str:
    """The data a run was trained on, when that is one source."""
    sources = opened.run.config.get("data") if opened.run is not None else None
    sources = [sources] if isinstance(sources, str) else list(sources or ())
    if len(sources) != 1:
        raise ValueError(f"data is needed: the model names {len(sources)} sources of its own ({sources})")
    return str(sources[0])


def _builtin_splits(data: Any) -> tuple[str, ...] | None:
    """Splits of a built-in set that is named without one; None for anything else."""
    if not isinstance(data, str) or data not in list_builtins():
        return None
    return tuple(builtin_module(data).SPLITS)


def _open_scored(data: Any, columns: Mapping[str, str] | None) -> tuple[Rows, str | None]:
    """The rows to score and the name of their split."""
    splits = _builtin_splits(data)
    if splits is None:
        rows = open_rows(data, columns=columns)
        name, _, split = rows.name.partition(":")
        return rows, split or None if name in list_builtins() else None
    split = next((name for name in _SPLITS if name in splits), splits[0])
    return open_rows(data, columns=columns, split=split), split


def _open_train(data: Any, train_data: Any, rows: Rows, columns: Mapping[str, str] | None) -> tuple[Rows | None, str]:
    """Rows to learn from that have a label (a target), and where they come from; (None, "") when there are none."""
    answer = "target" if "target" in rows.columns and "label" not in rows.columns else "label"
    if train_data is not None:
        found = open_rows(train_data, columns=columns)
        if answer not in found.columns:
            raise ValueError(
                f"train_data {found.name} has no column {answer!r}; found {', '.join(found.columns) or 'none'}"
            )
        return found, f"train_data {found.name}"
    name, _, split = rows.name.partition(":")
    if answer not in rows.columns or name not in list_builtins() or split.startswith("train"):
        return None, ""
    if "train" not in builtin_module(name).SPLITS or not isinstance(data, str):
        return None, ""
    found = open_rows(name, columns=columns, split="train")
    return (found, f"{name}, split train") if answer in found.columns else (None, "")


def _describe(rows: Rows, split: str | None) -> dict[str, Any]:
    return {
        "name": rows.name,
        "fingerprint": rows.fingerprint,
        "split": split,
        "rows": len(rows),
        "columns": list(rows.columns),
        "unusable_when_opened": len(rows.skipped),
    }


def _versions() -> dict[str, str]:
    return versions() | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _store(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record to the JSON file; one of the same model, data, seed and protocols is replaced."""
    records = read_json(path)["evaluations"] if path.is_file() else []
    records = [known for known in records if _identity(known) != _identity(record)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": _FORMAT, "evaluations": [*records, record]})


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    train = record["train_data"] or {}
    settings = {name: found["settings"] for name, found in record["protocols"].items()}
    return (
        record["model"]["checksum"],
        record["data"]["fingerprint"],
        train.get("fingerprint"),
        record["seed"],
        json.dumps(settings, sort_keys=True),
    )
