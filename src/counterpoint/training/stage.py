"""One stage made ready: what is read, what is trained, how long, and with which optimiser."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.optim import Optimizer

from counterpoint.construction import check_names
from counterpoint.data import Loader, Rows
from counterpoint.distributed import process_count, process_index
from counterpoint.system import Stage, System
from counterpoint.training.checkpoint import Position
from counterpoint.training.gradients import Gradients
from counterpoint.training.optimisers import build_optimiser, freeze_all_but
from counterpoint.training.randomness import derive
from counterpoint.training.schedules import learning_rate_factor
from counterpoint.training.settings import TrainingSettings

__all__ = ["PreparedStage", "check_stages", "prepare_stage"]

_DEFAULT_EPOCHS = 10.0


@dataclass
class PreparedStage:
    """A stage ready to run.

    Attributes:
        stage: as the system names it.
        settings: the run's, with the stage's own on top.
        loader: its batches.
        optimiser: over what it trains.
        gradients: computes them.
        steps: when it ends, or None when only time ends it.
        seconds: when it ends, or None.
        until: ends it early when it returns True, or None.
    """

    stage: Stage
    settings: TrainingSettings
    loader: Loader
    optimiser: Optimizer
    gradients: Gradients
    steps: int | None
    seconds: float | None
    until: Callable[[], bool] | None

    @property
    def state_name(self) -> str:
        """Under which name the optimiser's state is kept."""
        return self.stage.state or self.stage.name

    def progress(self, position: Position) -> float:
        """Share of the stage that is done, in [0, 1]."""
        by_steps = position.step / self.steps if self.steps else 0.0
        by_time = (position.seconds - position.stage_began) / self.seconds if self.seconds else 0.0
        return min(max(by_steps, by_time), 1.0)

    def learning_rate(self, position: Position) -> float:
        """Of the step that comes next."""
        settings = self.settings
        stride = 1.0 / self.steps if self.steps else 0.0
        by_steps = settings.warmup_steps * stride
        factor = learning_rate_factor(
            self.progress(position),
            schedule=settings.schedule,
            warmup=min(max(settings.warmup_fraction, by_steps), 1.0),
            floor=settings.final_learning_rate / settings.learning_rate if settings.learning_rate else 0.0,
            stride=stride,
        )
        if settings.warmup_steps and not self.steps:  # limited by time: warm-up steps cannot be a share of the run
            factor *= min(1.0, (position.step + 1) / settings.warmup_steps)
        return settings.learning_rate * factor

    def warming_up(self, position: Position) -> bool:
        """True during the warm-up."""
        settings = self.settings
        return position.step < settings.warmup_steps or self.progress(position) < settings.warmup_fraction

    def batches(self, position: Position) -> Iterator[dict[str, Any]]:
        """Batches from a position on, epoch after epoch, each with its `_epoch`.

        Raises:
            ValueError: an epoch without a single batch.
        """
        epoch, start = position.epoch, position.batch
        while True:
            found = False
            for batch in self.loader.batches(epoch, start):
                found = True
                yield {**batch, "_epoch": epoch}
            if not found and start == 0:
                raise ValueError(f"{self.loader.rows.name}: an epoch without one usable batch")
            epoch, start = epoch + 1, 0


def check_stages(stages: list[Stage], system: System) -> list[Stage]:
    """Refuse stages that cannot run.

    Raises:
        ValueError: no stages, equal names, or a method the system does not have.
    """
    kind = type(system).__name__
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) != len(names):
        raise ValueError(f"stages() of {kind} must return stages with different names, got {names}")
    for stage in stages:
        for method in (stage.encode, stage.loss, stage.views, stage.until):
            if method is not None and not callable(getattr(system, method, None)):
                raise ValueError(f"stage {stage.name!r} of {kind} names {method!r}, which is no method of it")
        if "/" in stage.name or "/" in (stage.state or ""):
            raise ValueError(f"stage {stage.name!r} of {kind}: names may not contain '/'")
    return stages


def prepare_stage(
    system: System,
    stage: Stage,
    rows: Rows,
    settings: TrainingSettings,
    fabric: Fabric,
    *,
    trainable: Mapping[str, bool],
    micro_batch: int | None,
    seconds: float | None,
) -> PreparedStage:
    """Make a stage ready: freeze, build optimiser and loader, find its length.

    Args:
        system, stage, rows, settings, fabric: of the run.
        trainable: name -> whether a parameter may train at all.
        micro_batch: rows a process encodes at once.
        seconds: share of the run's time limit that this stage may use, or None.
    """
    own = {"optimiser" if name == "name" else name: value for name, value in (stage.optimiser or {}).items()}
    check_names(own, TrainingSettings.names(), f"optimiser of stage {stage.name!r}")
    if stage.batch is not None:
        own["batch"] = stage.batch
    settings = dataclasses.replace(settings, **own)
    freeze_all_but(system, stage.train, trainable)
    loader = _loader(system, stage, rows, settings, fabric)
    encode = getattr(system, stage.encode or "encode")
    gradients = Gradients(
        system,
        torch.compile(encode) if settings.compile else encode,
        getattr(system, stage.loss or "loss"),
        fabric,
        micro_batch,
    )
    steps = stage.steps or _steps(settings, loader)
    return PreparedStage(
        stage=stage,
        settings=settings,
        loader=loader,
        optimiser=build_optimiser(system, settings),
        gradients=gradients,
        steps=steps,
        seconds=seconds if stage.steps is None else None,
        until=getattr(system, stage.until) if stage.until else None,
    )


def _loader(system: System, stage: Stage, rows: Rows, settings: TrainingSettings, fabric: Fabric) -> Loader:
    if stage.sources:
        wanted = set(stage.sources)
        found = rows.column("source") if "source" in rows.columns else []
        rows = rows.select([index for index, source in enumerate(found) if source in wanted])
        if not len(rows):
            raise ValueError(
                f"stage {stage.name!r} reads the sources {', '.join(stage.sources)}; the data have "
                f"{', '.join(sorted(set(map(str, found)))) or 'no named sources (give name=path)'}"
            )
    return Loader(
        rows,
        getattr(system, stage.views or "views")(),
        system.collate,
        batch=min(settings.batch, len(rows)),  # as for the whole data: a batch larger than what is read is all of it
        seed=derive(settings.seed, "data", stage.name) % 2**32,
        workers=settings.workers,
        shard=(process_index(), process_count()),
        max_skip_rate=settings.max_skip_rate,
        group=settings.group,
        pin_memory=fabric.device.type == "cuda" and settings.workers > 0,
    )


def _steps(settings: TrainingSettings, loader: Loader) -> int | None:
    limits = [] if settings.steps is None else [settings.steps]
    epochs = settings.epochs
    if settings.steps is None and epochs is None and settings.seconds is None:
        epochs = _DEFAULT_EPOCHS
    if epochs is not None:
        limits.append(max(1, math.ceil(epochs * loader.batches_per_epoch / settings.accumulate)))
    return min(limits) if limits else None
