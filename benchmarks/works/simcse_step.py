"""A training step of unsupervised SimCSE."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.compare import same
from benchmarks.training import Clock, trainer_step
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options

TITLE = "A training step of unsupervised SimCSE, MiniLM"
UNIT = "sentences"
MAX_LENGTH, TEMPERATURE, SKIPPED = 32, 0.05, 2
CHECKED = 1.0
"""Temperature at which losses are compared: at that of training, without dropout, they are 0 to rounding."""


def sentences(count: int) -> list[str]:
    """News sentences, each once."""
    from counterpoint.data import open_rows

    return [str(text) for text in open_rows("lee:train").column("text")][:count]


def ours(batch: int, steps: int, options: Options) -> Job:
    """`counterpoint.train` on ESimCSE without repetition and queue, which is SimCSE."""
    from counterpoint.data import Rows
    from counterpoint.systems.esimcse import ESimCSE

    texts = sentences(batch * steps)
    rows = Rows.from_list([{"id": str(place), "text": text} for place, text in enumerate(texts)])

    def build(kind: Any = ESimCSE, temperature: float = TEMPERATURE) -> ESimCSE:
        return kind("minilm", pooling="mean", max_length=MAX_LENGTH, temperature=temperature, repetition=0.0, queue=0)

    settings = {"batch": batch, "steps": steps, "learning_rate": 3e-5, "schedule": "constant", "log_every": 10}

    def output() -> Arrays:
        system = build(temperature=CHECKED).eval()
        view = system.views()
        given = system.collate([view(rows[place], np.random.default_rng(0)) for place in range(batch)])
        with torch.no_grad():
            return {"loss": float(system.loss(system.encode(given))["contrast"])}

    return Job(
        run=lambda: trainer_step(build, ESimCSE, rows, settings, skipped=SKIPPED, device=options.device),
        output=output,
    )


def peer(batch: int, steps: int, options: Options) -> Job:
    """sentence-transformers' trainer on pairs of a sentence and itself, as its SimCSE example does."""
    import transformers
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from counterpoint.encoders.text import TextEncoder

    folder = TextEncoder("minilm").model.config.name_or_path
    texts = sentences(batch * steps)

    class Ticking(transformers.TrainerCallback):
        """Tells the clock of every step."""

        def __init__(self, clock: Clock) -> None:
            self.clock = clock

        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            self.clock.tick()

    def build() -> SentenceTransformer:
        model = SentenceTransformer(folder, device=options.device)
        model.max_seq_length = MAX_LENGTH
        return model

    def run() -> float:
        clock, model = Clock(SKIPPED, options.device), build()
        with tempfile.TemporaryDirectory() as out:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=out,
                per_device_train_batch_size=batch,
                max_steps=steps,
                learning_rate=3e-5,
                lr_scheduler_type="constant",
                save_strategy="no",
                report_to=[],
                logging_steps=10,
                disable_tqdm=True,
                use_cpu=options.device == "cpu",
            )
            trainer = SentenceTransformerTrainer(
                model=model,
                args=arguments,
                train_dataset=Dataset.from_dict({"anchor": texts, "positive": texts}),
                loss=MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
                callbacks=[Ticking(clock)],
            )
            trainer.train()
        return clock.mean()

    def output() -> Arrays:
        model = build().eval()
        loss = MultipleNegativesRankingLoss(model, scale=1 / CHECKED)
        features = [model.preprocess(texts[:batch]) for _ in range(2)]
        features = [{name: _moved(value, model.device) for name, value in part.items()} for part in features]
        with torch.no_grad():
            return {"loss": float(loss(features, torch.empty(0)))}

    return Job(run, output)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def cases(options: Options) -> list[Case]:
    """The issue's batch of 64."""
    batch, steps = (4, 5) if options.tiny else (64, 12)
    return [
        Case(
            name=f"batch {batch}, at most {MAX_LENGTH} tokens",
            sides={
                OURS: partial(ours, batch, steps, options),
                "sentence-transformers trainer": partial(peer, batch, steps, options),
            },
            items=batch,
            compare=same(1e-3),
            bars=[Bar("speed", at_least=1.4)],
            note="News sentences, tokenised in the step by both; AdamW; everything that either trainer does between "
            "two steps is counted. Losses are compared with dropout off, at temperature 1.",
        )
    ]
