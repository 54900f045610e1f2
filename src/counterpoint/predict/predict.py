"""One call from a folder to a file of answers; a bad row never stops the rest."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from counterpoint.data import open_rows
from counterpoint.evaluation.embedding import Skipped
from counterpoint.evaluation.model import Model, open_model
from counterpoint.predict.options import Options, read_class_names

__all__ = ["Prediction", "list_tasks", "predict"]

_TASKS = "counterpoint.predict.tasks"
_REMEDY = (
    "an image-text model classifies when it is told the classes (classes='red,green'); others are the encoder of a "
    "task: `counterpoint train classify labelled/ --encoder run:PATH`, or regress, segment, transcribe, detect"
)


class Prediction(NamedTuple):
    """What `predict` wrote.

    Attributes:
        path: JSON lines, one a row, in the order of the rows.
        task: what was done.
        rows: rows in the data.
        predicted: rows with an answer.
        skipped: (id, reason) of the others; also in skipped.jsonl beside the answers.
    """

    path: Path
    task: str
    rows: int
    predicted: int
    skipped: list[Skipped]


@cache
def list_tasks() -> dict[str, ModuleType]:
    """Every task that has a file, by name."""
    package = importlib.import_module(_TASKS)
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{_TASKS}.{name}") for name in names}


def predict(
    model: Any,
    data: Any,
    *,
    out: str | Path,
    task: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    top: int = 5,
    batch: int = 64,
    columns: Mapping[str, str] | None = None,
    workers: int = 0,
) -> Prediction:
    """Answer every row and write one JSON line each. Rows that cannot be used are counted and listed.

    `classify` writes id, label, probability and the `top` classes. Image-text models classify among `classes`
    without having been trained on them. `enhance` writes each picture at its own resolution into `out`/enhanced, and
    beside its original into `out`/beside.

    Args:
        model: run directory, system or fitted classifier.
        data: what `open_rows` takes.
        out: folder for predictions.jsonl and skipped.jsonl, or the path of the .jsonl file itself.
        task: what to do; None takes the only thing that the model can do.
        classes: names of the classes: a sequence, "red,green", or a text file with one a line.
        top: how many classes are listed for a row.
        batch: rows at once; memory does not grow with the number of rows.
        columns: {conventional name: name in the data}.
        workers: processes that decode.

    Raises:
        ValueError: the model cannot do the task, no row could be used, or answers would be written among the data.
    """
    if top < 1 or batch < 1:
        raise ValueError(f"top and batch must be at least 1, got top={top}, batch={batch}")
    path = Path(out).expanduser()
    path = path if path.suffix == ".jsonl" else path / "predictions.jsonl"
    options = Options(path.parent, read_class_names(classes), top, batch, workers)
    opened = open_model(model)
    name = _choose(opened, task, options)
    _check_apart(data, [path.parent / folder for folder in getattr(list_tasks()[name], "FOLDERS", ())])
    rows = open_rows(data, columns=columns)
    skipped: list[Skipped] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    predicted = _write_lines(path, list_tasks()[name].answers(opened, rows, options, skipped))
    if skipped:
        _write_lines(path.with_name("skipped.jsonl"), (row._asdict() for row in skipped))
    else:
        path.with_name("skipped.jsonl").unlink(missing_ok=True)
    if not predicted:
        reason = f": {skipped[0].id}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"none of the {len(rows)} rows of {rows.name} could be used{reason}")
    return Prediction(path, name, len(rows), predicted, skipped)


def _check_apart(data: Any, folders: Sequence[Path]) -> None:
    """Folders of pictures that a task writes must not hold pictures that it reads: one could take the other's place."""
    if not isinstance(data, str | Path) or not Path(data).expanduser().is_dir():
        return
    source = Path(data).expanduser().resolve()
    for folder in (found.resolve() for found in folders):
        if source.is_relative_to(folder) or (folder.is_relative_to(source) and folder.is_dir()):
            raise ValueError(f"{folder} lies among the pictures of {source}: choose an out elsewhere")


def _choose(opened: Model, task: str | None, options: Options) -> str:
    tasks = list_tasks()
    offered = [name for name, module in tasks.items() if module.offered(opened.system, options)]
    name = type(opened.system).__name__
    if task is None:
        if len(offered) == 1:
            return offered[0]
        if not offered:
            raise ValueError(f"{name} predicts nothing by itself; {_REMEDY}")
        raise ValueError(f"{name} can {', '.join(offered)}: choose with task=")
    if task in offered:
        return task
    if task not in tasks:
        raise ValueError(f"no task is called {task!r}; there are {', '.join(tasks)}")
    can = f"it can {', '.join(offered)}" if offered else _REMEDY
    raise ValueError(f"{name} cannot {task}; {can}")


def _write_lines(path: Path, lines: Iterator[Mapping[str, Any]]) -> int:
    """Write JSON lines as they come; the file appears under its name when it is complete."""
    partial = path.with_name(path.name + ".part")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
