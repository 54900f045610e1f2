"""Where the figures of a run go: metrics.jsonl, TensorBoard when it is installed, and the terminal."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from counterpoint import storage

__all__ = ["MetricsLog", "ProgressLine"]

_PLAIN_SECONDS = 10.0
"""A terminal that cannot redraw gets a line this often at most."""


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


class MetricsLog:
    """Appends records to metrics.jsonl and scalars to TensorBoard.

    Args:
        folder: the run directory.
        step: steps already done; later lines, left by a run that was killed after its checkpoint, are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "metrics.jsonl"
        kept = [line for line in self._lines() if _step_of(line) is not None and (_step_of(line) or 0) <= step]
        storage.write_text(self._path, "".join(f"{line}\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = self._open_board(folder / "tensorboard", step)

    def _lines(self) -> list[str]:
        return self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []

    @staticmethod
    def _open_board(folder: Path, step: int) -> Any:
        if importlib.util.find_spec("tensorboard") is None:
            return None
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

        return SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; it has a `step`. A disk that is full costs the record, not the run."""
        try:
            self._file.write(json.dumps(_plain(record), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            warnings.warn(f"{self._path} cannot be written ({error.strerror}): figures are lost", stacklevel=2)
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                    self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None


class ProgressLine:
    """A progress bar on a terminal, a line now and then elsewhere.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._quiet, self._last = quiet, -math.inf

    def start(self, title: str) -> None:
        """Begin a stage."""
        self.stop()
        if self._quiet or not sys.stderr.isatty():
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>5.1f} %"))
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[figures]}"))
        self._bar = Progress(*columns, *times, console=self._console, transient=True)
        self._task = self._bar.add_task(title, total=1.0, figures="")
        self._bar.start()

    def update(self, progress: float, figures: str) -> None:
        """Show progress in [0, 1] and a few figures."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress, figures=figures)
        elif not self._quiet and (time.monotonic() - self._last > _PLAIN_SECONDS or progress >= 1):
            self._last = time.monotonic()
            print(f"{100 * progress:5.1f} %  {figures}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
