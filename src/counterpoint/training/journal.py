"""What a run tells about itself while it trains: figures, health, skipped rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from counterpoint.data import Loader
from counterpoint.distributed import gather_objects, process_count, process_index
from counterpoint.sharded import local
from counterpoint.system import System
from counterpoint.training.caching import keeping_batch_norm
from counterpoint.training.checkpoint import Checkpoint, Position
from counterpoint.training.health import HealthMonitor, Observation
from counterpoint.training.metrics_log import MetricsLog, ProgressLine
from counterpoint.training.results import StepResult
from counterpoint.training.settings import TrainingSettings
from counterpoint.training.stage import PreparedStage

if TYPE_CHECKING:
    from counterpoint.training.loop import Trainer

__all__ = ["Journal"]

_EARLY_STEPS = 50
"""So many first steps are looked at at least every `_EARLY_EVERY` steps, so that trouble is named early."""
_EARLY_EVERY = 10
_SAMPLE = 256
"""Numbers of each parameter that are compared before and after a step."""


class Journal:
    """Collects figures between two log lines and writes them.

    Args:
        system: that trains.
        path: the run directory.
        settings: of the run.
        position: where it starts.
        checkpoint: where it goes on, or None.
        quiet: print nothing.
    """

    def __init__(
        self,
        system: System,
        path: Path,
        settings: TrainingSettings,
        position: Position,
        checkpoint: Checkpoint | None,
        *,
        quiet: bool,
    ) -> None:
        self._system, self._settings = system, settings
        self._log = MetricsLog(path, position.total) if process_index() == 0 else None
        self._line = ProgressLine(quiet=quiet)
        self._health = HealthMonitor.from_memory(checkpoint.health if checkpoint else {})
        kept = checkpoint if process_index() == 0 else None  # it holds the rows of all processes
        self._skipped = {name: reason for name, reason in (kept.skipped if kept else [])}
        self._seen = kept.seen if kept else 0
        self._loader: Loader | None = None
        self._reset()

    def _reset(self) -> None:
        self._loss = self._wait = 0.0
        self._steps = self._rows = 0
        self._since = time.perf_counter()

    def start_stage(self, name: str, loader: Loader) -> None:
        """A stage begins."""
        self._fold_loader()
        self._loader = loader
        self._line.start(name)
        self._reset()

    def waited(self, seconds: float) -> None:
        """Time spent waiting for data."""
        self._wait += seconds

    def stepped(self, loss: float, rows: int) -> None:
        """A step is done."""
        self._loss += loss
        self._steps += 1
        self._rows += rows

    def watches(self, step: int) -> bool:
        """True when `step` (from 1) gets a line."""
        return step % self._settings.log_every == 0 or (step <= _EARLY_STEPS and step % _EARLY_EVERY == 0)

    def sample_weights(self) -> Tensor:
        """Some numbers of every parameter that trains (of this process's share), to see whether a step moves them."""
        pieces = [local(p).detach().reshape(-1)[:_SAMPLE] for p in self._system.parameters() if p.requires_grad]
        return torch.cat([piece.float() for piece in pieces])

    def observe(
        self,
        trainer: Trainer,
        prepared: PreparedStage,
        result: StepResult,
        *,
        rate: float,
        norm: float,
        before: Tensor | None,
    ) -> None:
        """Write a line: figures since the last one, health, and warnings that are new."""
        # On every process: a head with global statistics talks to the others, and may not count these rows.
        with torch.no_grad(), keeping_batch_norm(self._system):
            pair = self._system.pair(result.features)
        if process_index() > 0:
            self._reset()
            return
        position = trainer.position
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        moved = self.sample_weights() - before if before is not None else None
        update = (
            float(moved.norm() / before.norm().clamp(min=1e-12)) if moved is not None and before is not None else 0.0
        )
        figures: dict[str, Any] = {
            "step": position.total,
            "stage": prepared.stage.name,
            "epoch": position.epoch,
            "progress": prepared.progress(position),
            "seconds": position.seconds,
            "loss": self._loss / max(self._steps, 1),
            **{f"loss/{name}": float(value) for name, value in result.parts.items()},
            "learning_rate": rate,
            "gradient_norm": norm,
            "update_ratio": update,
            "examples_per_second": self._rows * process_count() / elapsed,
            "wait_share": min(self._wait / elapsed, 1.0),
        }
        if result.guess is not None and result.guessed is not None:
            figures |= {"guess": result.guess, "guessed_loss": float(result.guessed)}
        figures, found = self._health.observe(
            Observation(
                figures=figures,
                pair=pair,
                temperature=self._system.pair_temperature(),
                wait_per_step=self._wait / max(self._steps, 1),
                settled=not prepared.warming_up(position),
                rate_share=rate / prepared.settings.learning_rate if prepared.settings.learning_rate else 0.0,
            )
        )
        if found:
            figures["warnings"] = [warning.kind for warning in found]
        for warning in found:
            self._line.say(f"warning at step {position.total}: {warning.message} {warning.remedy}")
        assert self._log is not None
        self._log.write(figures)
        self._line.update(figures["progress"], self._health.line(figures))
        self._reset()

    def _fold_loader(self) -> None:
        if self._loader is not None:
            self._skipped.update(dict(self._loader.skipped))
            self._seen += self._loader.seen
            self._loader = None

    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps; rows of all processes. Collective."""
        skipped, seen = dict(self._skipped), self._seen
        if self._loader is not None:
            skipped.update(dict(self._loader.skipped))
            seen += self._loader.seen
        found = gather_objects([seen, list(skipped.items())])
        reasons = dict(tuple(item) for _, items in found for item in items)
        return {
            "skipped": [list(item) for item in reasons.items()],
            "seen": sum(count for count, _ in found),
            "health": self._health.memory(),
        }

    def result(self, position: Position) -> dict[str, Any]:
        """How the run ended, for result.json; rows of all processes. Collective."""
        memory = self.memory()
        return {
            "steps": position.total,
            "seconds": position.seconds,
            "rows_read": memory["seen"],
            "skipped": memory["skipped"],
            "warnings": self._health.warned,
        }

    def close(self) -> None:
        """Close files and the progress bar."""
        self._line.stop()
        if self._log is not None:
            self._log.close()
            self._log = None
