"""The trainer: encode, gather, loss, backward, average, check, step; everything else is kept out of its way.

features = gather(encode(batch))        # gradient caching cuts `encode` into pieces and replays it
terms    = loss(features)               # computed on the rows of all processes
backward; average gradients over processes; check; optimiser step; after_step(features)
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoint.allocation import keep_freed_memory
from counterpoint.batch_norm import convert_batch_norm
from counterpoint.data import Rows
from counterpoint.distributed import (
    average_gradients,
    barrier,
    broadcast_module,
    gather,
    process_count,
    process_index,
)
from counterpoint.run import load_weights
from counterpoint.sharded import is_shared, whole_state
from counterpoint.storage import StorageError
from counterpoint.system import System
from counterpoint.training.agreement import Outcome, agree, refuse_draws
from counterpoint.training.checkpoint import Checkpoint, Position, write_checkpoint
from counterpoint.training.devices import make_fabric, to_device
from counterpoint.training.guard import NonFiniteError, clip_gradients, explain, gradient_norm
from counterpoint.training.interrupt import Interrupted, StopRequest, stop_requests
from counterpoint.training.journal import Journal
from counterpoint.training.optimisers import export_state, import_state, set_learning_rate, share_state, whole_states
from counterpoint.training.randomness import deterministic_algorithms, seed_everything
from counterpoint.training.results import StepResult
from counterpoint.training.settings import TrainingSettings
from counterpoint.training.sharding import explaining_shares, share_encoders
from counterpoint.training.stage import PreparedStage, check_stages, prepare_stage

__all__ = ["Trainer"]

_SAVE_SECONDS = 120.0
_MOST_SKIPPED_STEPS = 40
"""float16 steps that the scaler may skip in a row; its scale has then fallen by 2**40."""


class Trainer:
    """Runs the stages of a system.

    Args:
        system: with its first weights; every process gets those of process 0.
        rows: what is read.
        settings: of the run.
        path: the run directory.
        checkpoint: where to go on, or None.
        quiet: print nothing.

    Attributes:
        position: where the run stands.
    """

    def __init__(
        self,
        system: System,
        rows: Rows,
        settings: TrainingSettings,
        path: Path,
        *,
        checkpoint: Checkpoint | None = None,
        quiet: bool = False,
    ) -> None:
        self.fabric, self._precision = make_fabric(settings)
        self.system = system.to(self.fabric.device)
        if self.fabric.device.type == "cpu":
            keep_freed_memory()
        if process_count() > 1:
            convert_batch_norm(system)
            broadcast_module(system)
        self.rows, self.settings, self.path = rows, settings, path
        if checkpoint:
            load_weights(self.system, checkpoint.weights, path / "checkpoints")
        self._shares = share_encoders(system, self.fabric.device) if settings.shard and process_count() > 1 else None
        self.position = replace(checkpoint.position) if checkpoint else Position()
        states = checkpoint.optimisers if checkpoint else {}
        self._optimisers = {name: share_state(state, system) for name, state in states.items()}
        self._micro_batch = checkpoint.micro_batch if checkpoint else settings.micro_batch
        self._trainable = {name: parameter.requires_grad for name, parameter in system.named_parameters()}
        self._stages = check_stages(system.stages(), system)
        self._began = time.perf_counter() - self.position.seconds
        self._saved_at = self.position.seconds
        self._scaler_skips = 0
        self._began_with = checkpoint.processes if checkpoint else process_count()
        self._draws = False
        if checkpoint and checkpoint.scaler:
            self._precision.load_state_dict(checkpoint.scaler)
        self.journal = Journal(system, path, settings, self.position, checkpoint, quiet=quiet or process_index() > 0)

    def run(self) -> dict[str, Any]:
        """Train to the end and return the result for result.json.

        Raises:
            NonFiniteError: loss or gradient is NaN or infinite; nothing was stepped.
            Interrupted: a signal came; the state is saved.
        """
        self._began = time.perf_counter() - self.position.seconds
        try:
            with stop_requests() as stop, deterministic_algorithms(self.settings.deterministic):
                for number in range(self.position.stage, len(self._stages)):
                    self._run_stage(number, stop)
        finally:
            self.journal.close()
            for name, parameter in self.system.named_parameters():
                parameter.requires_grad_(self._trainable[name])
        if self._shares is not None:
            del self._prepared  # its optimiser holds shares that are not needed any more
            self._shares.restore()
        return self.journal.result(self.position)

    def _run_stage(self, number: int, stop: StopRequest) -> None:
        prepared = self._prepare(number)
        self._prepared = prepared
        self.system.train()
        self.journal.start_stage(prepared.stage.name, prepared.loader)
        stream = prepared.batches(self.position)
        try:
            while not self._ended(prepared):
                began = time.perf_counter()
                batches = list(itertools.islice(stream, prepared.settings.accumulate))
                self.journal.waited(time.perf_counter() - began)
                with explaining_shares(self.system):
                    self._step(prepared, batches, stop)
        finally:
            stream.close()  # type: ignore[attr-defined]
        self._optimisers[prepared.state_name] = export_state(prepared.optimiser, self.system)
        position = self.position
        self.position = Position(
            stage=number + 1, total=position.total, seconds=position.seconds, stage_began=position.seconds
        )
        self.save()

    def _prepare(self, number: int) -> PreparedStage:
        timed = [stage for stage in self._stages if stage.steps is None]
        seconds = self.settings.seconds / len(timed) if self.settings.seconds and timed else None
        prepared = prepare_stage(
            self.system,
            self._stages[number],
            self.rows,
            self.settings,
            self.fabric,
            trainable=self._trainable,
            micro_batch=self._micro_batch,
            seconds=seconds,
        )
        import_state(prepared.optimiser, self.system, self._optimisers.get(prepared.state_name, {}))
        return prepared

    def _ended(self, prepared: PreparedStage) -> bool:
        if prepared.progress(self.position) >= 1.0:
            return True
        if prepared.until is None or self.position.step == 0:
            return False
        self._set_clock(prepared)  # so that a resumed stage ends where an unbroken one does
        return bool(prepared.until())

    def _set_clock(self, prepared: PreparedStage) -> None:
        clock, position = self.system.clock, self.position
        clock.step, clock.epoch, clock.stage = position.step, position.epoch, prepared.stage.name
        clock.progress = prepared.progress(position)
        clock.total_steps = prepared.steps or max(position.step + 1, 1)

    def _step(self, prepared: PreparedStage, batches: list[dict[str, Any]], stop: StopRequest) -> None:
        """One optimiser step, and what comes after it."""
        system, position = self.system, self.position
        self._set_clock(prepared)
        rate = prepared.learning_rate(position)
        set_learning_rate(prepared.optimiser, rate)
        seed = (self.settings.seed, prepared.stage.name, position.step)
        batches = [to_device(batch, self.fabric.device) for batch in batches]
        if type(system).before_step is not System.before_step:
            seed_everything(*seed, "before")
            with torch.no_grad():
                system.before_step()
        result = prepared.gradients(batches, *seed)
        self._micro_batch = prepared.gradients.micro_batch
        average_gradients(p for p in system.parameters() if not is_shared(p))
        if any(parameter.grad is not None for parameter in system.parameters()):
            self._precision.unscale_gradients(prepared.optimiser)
        norm = gradient_norm(system.parameters())
        outcome = self._agree(prepared, result, norm, stop)
        loss, size = outcome.loss, outcome.norm
        self._check(loss, size, batches, result)
        watched = self.journal.watches(position.total + 1)
        before = self.journal.sample_weights() if watched else None
        self._update(prepared, size)
        self._after_step(result, seed)
        position.advance(batches[-1]["_epoch"], batches[-1]["_position"] + 1, prepared.loader.batches_per_epoch)
        self.journal.stepped(loss, result.rows)
        if watched:
            self.journal.observe(self, prepared, result, rate=rate, norm=size, before=before)
        self._maybe_save(outcome.stopping)

    def _agree(self, prepared: PreparedStage, result: StepResult, norm: Tensor, stop: StopRequest) -> Outcome:
        """The outcome of the step, the same on every process."""
        drew = prepared.gradients.draws.drew
        seconds = time.perf_counter() - self._began
        outcome = agree(result.loss, norm, seconds=seconds, stopping=stop.requested, drew=drew)
        self.position.seconds = outcome.seconds
        self._draws = outcome.drew
        if outcome.drew:
            refuse_draws(self.path, self._began_with)
        return outcome

    def _check(self, loss: float, size: float, batches: list[dict[str, Any]], result: StepResult) -> None:
        """Stop before the optimiser moves when something is not finite; a scaler may skip steps of its own."""
        scaled = bool(self._precision.state_dict())
        skipped = scaled and math.isfinite(loss) and not math.isfinite(size)
        self._scaler_skips = self._scaler_skips + 1 if skipped else 0
        if (math.isfinite(loss) and math.isfinite(size)) or (skipped and self._scaler_skips < _MOST_SKIPPED_STEPS):
            return
        checkpoints = self.path / "checkpoints"
        kept = f"earlier checkpoints are in {checkpoints}" if checkpoints.is_dir() else "there is no checkpoint yet"
        raise NonFiniteError(explain(self.position.total + 1, batches, result, self.system, kept))

    def _update(self, prepared: PreparedStage, size: float) -> None:
        parameters = [p for group in prepared.optimiser.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        clip_gradients(parameters, size, prepared.settings.clip_gradient)
        self._precision.optimizer_step(prepared.optimiser)

    def _after_step(self, result: StepResult, seed: tuple[int | str, ...]) -> None:
        if type(self.system).after_step is System.after_step:
            return
        seed_everything(*seed, "after")
        with torch.no_grad():
            features = result.features if type(self.system).couples else gather(result.features)
            self.system.after_step(features)

    def _maybe_save(self, stopping: bool) -> None:
        every, seconds = self.settings.save_every, self.position.seconds
        due = self.position.total % every == 0 if every else seconds - self._saved_at > _SAVE_SECONDS
        if due or stopping:
            self.save(must=stopping)
        if stopping:
            self.journal.close()
            raise Interrupted(
                f"stopped after step {self.position.total}; the state is saved. Continue with resume "
                f"(counterpoint train ... --out {self.path} --resume)"
            )

    def save(self, *, must: bool = False) -> None:
        """Write a checkpoint; a failure is a warning unless it `must` succeed.

        Raises:
            StorageError: it must succeed and did not.
        """
        self._saved_at = self.position.seconds
        journal = self.journal.memory()
        keep = process_index() == 0
        prepared = self._prepared
        states = dict(self._optimisers)
        inside = self.position.stage < len(self._stages) and self._stages[self.position.stage] is prepared.stage
        if inside:
            states[prepared.state_name] = export_state(prepared.optimiser, self.system)
        weights = whole_state(self.system.state_dict(), keep=keep)
        optimisers = {name: whole_states(state, keep=keep) for name, state in states.items()}
        if keep:
            checkpoint = Checkpoint(
                weights=weights,
                optimisers=optimisers,
                position=self.position,
                scaler=self._precision.state_dict(),
                micro_batch=self._micro_batch,
                processes=self._began_with,
                draws=inside and self._draws,
                **journal,
            )
            try:
                (self.path / "checkpoints").mkdir(exist_ok=True)
                write_checkpoint(self.path / "checkpoints", checkpoint)
            except (StorageError, OSError) as error:
                if must:
                    raise
                warnings.warn(f"no checkpoint at step {self.position.total}: {error}", stacklevel=2)
        barrier()
