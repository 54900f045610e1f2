"""A training step of SwAV."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.compare import same
from benchmarks.training import Clock, flops_of, trainer_step
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options

TITLE = "A training step of SwAV, ResNet-18, 2 x 96 + 6 x 48 pixels"
UNIT = "images"
SIZES, COUNTS = (96, 48), (2, 6)
HIDDEN, DIM, PROTOTYPES = 512, 128, 512
"""As in lightly's example."""
SKIPPED = 2


def crops(batch: int) -> list[Tensor]:
    """(batch, count, 3, size, size) of each size."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, 3, size, size, generator=generator) for size, count in zip(SIZES, COUNTS, strict=True)
    ]


class Stored:
    """A view that takes a row's crops from a list: what is timed is the step, not the views."""

    def __init__(self, batch: int) -> None:
        self.crops = crops(batch)

    def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Tensor]:
        """The crops of a row."""
        place = int(row["number"])
        return {f"crops{size}": stack[place] for size, stack in enumerate(self.crops)}


def ours(batch: int, steps: int, options: Options) -> Job:
    """`counterpoint.train` on SwAV."""
    from counterpoint.data import Rows
    from counterpoint.systems.swav import SwAV
    from counterpoint.views.image import MultiCrop

    stored = Stored(batch)
    rows = Rows.from_list([{"id": str(place), "image": b"", "number": place} for place in range(batch)])
    multicrop = MultiCrop(sizes=SIZES, counts=COUNTS, scales=((0.14, 1.0), (0.05, 0.14)))

    def build(kind: Any = SwAV) -> SwAV:
        torch.manual_seed(0)
        system = kind(f"resnet18?size={SIZES[0]}", multicrop, hidden=HIDDEN, dim=DIM, prototypes=PROTOTYPES, freeze=0)
        system.views = lambda: stored
        return system

    settings = {"batch": batch, "steps": steps, "learning_rate": 1e-3, "schedule": "constant", "log_every": 10}

    def output() -> Arrays:
        system = build().eval()
        _copy(_lightly(), system)
        given = {f"crops{place}": stack for place, stack in enumerate(stored.crops)}
        system.before_step()
        with torch.no_grad():
            return {"loss": float(system.loss(system.encode(given))["swap"])}

    def one_step() -> None:
        system = build()
        given = {f"crops{place}": stack for place, stack in enumerate(stored.crops)}
        system.loss(system.encode(given))["swap"].backward()

    return Job(
        run=lambda: trainer_step(build, SwAV, rows, settings, skipped=SKIPPED, device=options.device),
        output=output,
        flops=flops_of(one_step),
    )


class _Model(nn.Module):
    """lightly's example (examples/pytorch/swav.py), in our words."""

    def __init__(self) -> None:
        super().__init__()
        import torchvision
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

        self.backbone = nn.Sequential(*list(torchvision.models.resnet18().children())[:-1])
        self.projection_head = SwaVProjectionHead(512, HIDDEN, DIM)
        self.prototypes = SwaVPrototypes(DIM, n_prototypes=PROTOTYPES)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every prototype."""
        embeddings = self.projection_head(self.backbone(images).flatten(start_dim=1))
        return self.prototypes(nn.functional.normalize(embeddings, dim=1, p=2))


def _lightly() -> _Model:
    torch.manual_seed(0)
    return _Model()


def _copy(source: _Model, target: Any) -> None:
    """The peer's weights into our system, so that both compute the same loss."""
    names = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")
    for name, child in zip(names, source.backbone.children(), strict=False):
        if name:  # activation and pooling have no weights
            getattr(target.encoder.model, name).load_state_dict(child.state_dict())
    stored = source.projection_head.layers.state_dict()
    target.head.load_state_dict(stored, strict=False)
    linear = source.prototypes.heads[0]
    with torch.no_grad():
        target.head[0].bias.zero_()  # the peer's has none, as batch normalisation follows
        linear.bias.zero_()  # ours, like the paper's prototypes, have no bias
        target.prototypes.weight.copy_(linear.weight)


def peer(batch: int, steps: int, options: Options) -> Job:
    """lightly's published loop: every crop by itself through the network."""
    from lightly.loss import SwaVLoss

    criterion = SwaVLoss()
    views = [view.to(options.device) for stack in crops(batch) for view in stack.unbind(1)]
    high = COUNTS[0]

    def loss(model: _Model) -> Tensor:
        model.prototypes.normalize()
        scores = [model(view) for view in views]
        return criterion(scores[:high], scores[high:])

    def run() -> float:
        model, clock = _lightly().to(options.device), Clock(SKIPPED, options.device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(steps):
            value = loss(model)
            value.backward()
            optimiser.step()
            optimiser.zero_grad()
            clock.tick()
        return clock.mean()

    def output() -> Arrays:
        model = _lightly().eval().to(options.device)
        nn.init.zeros_(model.prototypes.heads[0].bias)
        with torch.no_grad():
            return {"loss": float(loss(model))}

    return Job(run, output)


def cases(options: Options) -> list[Case]:
    """The issue's crops."""
    batch, steps = (4, 5) if options.tiny else (32, 8)
    return [
        Case(
            name=f"batch {batch}",
            sides={
                OURS: partial(ours, batch, steps, options),
                "lightly's loop": partial(peer, batch, steps, options),
            },
            items=batch,
            compare=same(1e-3),
            bars=[Bar("speed", at_least=1.3)],
            note="Crops are given. The same layers and AdamW on both sides; the whole step of `counterpoint.train`, "
            "its checks and log included, against lightly's example loop. Losses are compared with the peer's weights "
            "and batch statistics switched off: the example normalises each crop by itself, ours, like the paper's "
            "code, crops of one size together.",
        )
    ]
