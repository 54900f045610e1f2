"""What the trainer costs beside a loop written by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.training import Clock, trainer_step
from benchmarks.work import OURS, Bar, Case, Job, Options

TITLE = "The trainer against a bare PyTorch loop of the same model"
UNIT = "rows"
SKIPPED = 3
RATE, DECAY = 1e-3, 1e-6


def swav() -> tuple[Any, Any, Any]:
    """Class, constructor and rows of the small SwAV recipe: digits, a tiny network."""
    from counterpoint.data import open_rows
    from counterpoint.systems.swav import SwAV
    from counterpoint.views.image import MultiCrop

    view = MultiCrop(
        sizes=(32,), counts=(2,), scales=((0.4, 1.0),), flip=0.0, jitter=(0.4, 0.4, 0.0, 0.0), grey=0.0, blur=0.0
    )
    arguments = {"hidden": 64, "dim": 32, "prototypes": 30, "freeze": 0}
    return SwAV, lambda kind: kind("test_resnet?size=32", view, **arguments), open_rows("mnist5k")


def simcse() -> tuple[Any, Any, Any]:
    """Two layers of MiniLM on news sentences."""
    from counterpoint.data import open_rows
    from counterpoint.systems.esimcse import ESimCSE

    arguments = {"pooling": "mean", "layers": 2, "repetition": 0.0, "queue": 0}
    return ESimCSE, lambda kind: kind("minilm", **arguments), open_rows("lee:train")


def ours(make: Any, batch: int, steps: int, options: Options) -> Job:
    """`counterpoint.train`, with its checks, health, log and deterministic algorithms."""
    kind, build, rows = make()
    settings = {"batch": batch, "steps": steps, "learning_rate": RATE, "weight_decay": DECAY, "schedule": "constant"}
    return Job(lambda: trainer_step(build, kind, rows, settings, skipped=SKIPPED, device=options.device))


class _Samples(Dataset):
    """Rows through a view."""

    def __init__(self, rows: Any, view: Any) -> None:
        self.rows, self.view, self.rng = rows, view, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        return self.view(self.rows[place], self.rng)


def bare(make: Any, batch: int, steps: int, options: Options) -> Job:
    """The same rows, views, network, loss and optimiser in the plainest loop."""
    kind, build, rows = make()

    def run() -> float:
        system, clock = build(kind).to(options.device).train(), Clock(SKIPPED, options.device)
        loader = DataLoader(
            _Samples(rows, system.views()), batch, shuffle=True, drop_last=True, collate_fn=system.collate
        )
        optimiser = torch.optim.AdamW(system.parameters(), lr=RATE, weight_decay=DECAY)
        while len(clock.times) < steps:
            for given in loader:
                given = {name: tensor.to(options.device) for name, tensor in given.items()}
                system.before_step()
                optimiser.zero_grad()
                features = system.encode(given)
                loss = sum(system.loss(features).values())
                loss.backward()
                optimiser.step()
                float(loss)  # as any loop that prints it
                clock.tick()
                if len(clock.times) == steps:
                    break
        return clock.mean()

    return Job(run)


def cases(options: Options) -> list[Case]:
    """Small models, on which the framework weighs most."""
    found = []
    for name, make, batch, steps in (("SwAV on digits", swav, 256, 30), ("SimCSE, 2 layers", simcse, 32, 40)):
        batch, steps = (8, 6) if options.tiny else (batch, steps)
        found.append(
            Case(
                name=f"{name}, batch {batch}",
                sides={
                    OURS: partial(ours, make, batch, steps, options),
                    "bare loop": partial(bare, make, batch, steps, options),
                },
                items=batch,
                bars=[Bar("time", 1.03)],
                repeat=10.0,
                note="Views and decoding included on both sides, no workers. The trainer also checks every loss and "
                "gradient, watches health, writes its log, and uses deterministic algorithms. On a processor it keeps "
                "freed memory (decision 21); the bare loop does not.",
            )
        )
    return found
