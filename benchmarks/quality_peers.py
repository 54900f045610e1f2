"""lightly's published loops on an encoder of ours, for given seconds of the processor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from counterpoint.data import Rows
from counterpoint.data.images import decode
from counterpoint.system import System
from counterpoint.training.schedules import learning_rate_factor
from counterpoint.views.image import MultiCrop, TwoViews

Groups = list[dict[str, Any]]
Loss = Callable[[Any], Tensor]


@dataclass
class Budget:
    """Seconds of this process on the processor, all of its threads together; they run from the making on."""

    seconds: float
    began: float = field(default_factory=time.process_time)
    ended: float | None = None

    def restart(self) -> None:
        """The seconds run from here."""
        self.began = time.process_time()

    @property
    def over(self) -> bool:
        """True once the seconds are spent; keeps how many it were, for what comes after the last step."""
        self.ended = self.spent
        return self.ended >= self.seconds

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.process_time() - self.began

    @property
    def progress(self) -> float:
        """Share that is spent, in [0, 1]."""
        return min(1.0, self.spent / self.seconds)


@dataclass(frozen=True)
class Optimiser:
    """An optimiser and the course of its learning rate over the budget."""

    make: Callable[..., torch.optim.Optimizer]
    learning_rate: float
    schedule: str = "constant"
    warmup: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> Optimiser:
        """The AdamW that our trainer makes of a recipe's settings."""
        more = {"weight_decay": settings["weight_decay"], "betas": tuple(settings.get("betas", (0.9, 0.999)))}
        schedule, warmup = settings.get("schedule", "cosine"), settings.get("warmup_fraction", 0.0)
        return cls(torch.optim.AdamW, settings["learning_rate"], schedule, warmup, more)

    def factor(self, budget: Budget) -> float:
        """Of the learning rate, now."""
        return learning_rate_factor(budget.progress, schedule=self.schedule, warmup=self.warmup, stride=1e-3)


@dataclass(frozen=True)
class Peer:
    """How a peer trains the encoder of a system.

    Attributes:
        run: (system, rows, batch, budget, seed) -> steps taken; changes the encoder's weights in place.
        settings: in words.
    """

    run: Callable[[System, Rows, int, Budget, int], int]
    settings: str


class Views(Dataset[Any]):
    """Rows, each changed by a function."""

    def __init__(self, rows: Rows, change: Callable[[Mapping[str, Any]], Any]) -> None:
        self.rows, self.change = rows, change

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Any:
        return self.change(self.rows[place])


def loop(
    given: Views,
    batch: int,
    loss: Loss,
    groups: Groups,
    optimiser: Optimiser,
    budget: Budget,
    collate: Callable[[list[Any]], Any] | None = None,
    after: Callable[[], None] = lambda: None,
) -> int:
    """The plain loop of the examples, epoch after epoch, until the budget is spent."""
    loader = DataLoader(given, batch, shuffle=True, drop_last=True, collate_fn=collate)
    scales = [group.pop("scale", 1.0) for group in groups]
    made = optimiser.make(groups, lr=optimiser.learning_rate, **optimiser.more)
    steps = 0
    while True:
        for samples in loader:
            for group, scale in zip(made.param_groups, scales, strict=True):
                group["lr"] = scale * optimiser.learning_rate * optimiser.factor(budget)
            value = loss(samples)
            value.backward()
            made.step()
            made.zero_grad()
            after()
            steps += 1
            if budget.over:
                return steps


def set_seed(seed: int) -> None:
    """What lightly and torchvision draw from."""
    import random

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _all(*modules: nn.Module) -> Groups:
    return [{"params": [parameter for module in modules for parameter in module.parameters()]}]


def _jitter(view: MultiCrop | TwoViews) -> dict[str, Any]:
    """Our distortions in the words of lightly's transforms."""
    names = ("cj_bright", "cj_contrast", "cj_sat", "cj_hue")
    return {
        **dict(zip(names, view.jitter, strict=True)),
        "cj_prob": view.jitter_probability,
        "hf_prob": view.flip,
        "random_gray_scale": view.grey,
        "gaussian_blur": view.blur,
        "sigmas": view.blur_radius,
        "normalize": {"mean": list(view.mean), "std": list(view.std)},
    }


def swav(view: MultiCrop, head: tuple[int, int, int], optimiser: Optimiser, settings: str) -> Peer:
    """lightly's examples/pytorch/swav.py, with crops drawn as `view` draws them; `head` is hidden, dim, prototypes."""

    def run(system: System, rows: Rows, batch: int, budget: Budget, seed: int) -> int:
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
        from lightly.transforms import SwaVTransform

        set_seed(seed)
        hidden, dim, count = head
        encoder: Any = system.encoder
        projection, prototypes = SwaVProjectionHead(encoder.dim, hidden, dim), SwaVPrototypes(dim, n_prototypes=count)
        transform = SwaVTransform(
            crop_sizes=view.sizes,
            crop_counts=view.counts,
            crop_min_scales=tuple(low for low, _ in view.scales),
            crop_max_scales=tuple(high for _, high in view.scales),
            **_jitter(view),
        )
        criterion = SwaVLoss()

        def loss(views: Sequence[Tensor]) -> Tensor:
            prototypes.normalize()
            scores = [prototypes(nn.functional.normalize(projection(encoder(each)), dim=1)) for each in views]
            return criterion(scores[: view.counts[0]], scores[view.counts[0] :]).squeeze()

        given = Views(rows, lambda row: transform(decode(row["image"])))
        return loop(given, batch, loss, _all(encoder, projection, prototypes), optimiser, budget)

    return Peer(run, settings)


def simclr(
    view: TwoViews, head: tuple[int, int, bool], temperature: float, optimiser: Optimiser, settings: str
) -> Peer:
    """lightly's examples/pytorch/simclr.py, with views drawn as `view` does; `head` is hidden, dim, batch norm."""

    def run(system: System, rows: Rows, batch: int, budget: Budget, seed: int) -> int:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        set_seed(seed)
        hidden, dim, norm = head
        encoder: Any = system.encoder
        projection = SimCLRProjectionHead(encoder.dim, hidden, dim, batch_norm=norm)
        criterion = NTXentLoss(temperature)
        transform = SimCLRTransform(input_size=view.size, min_scale=view.scale[0], **_jitter(view))

        def loss(views: Sequence[Tensor]) -> Tensor:
            first, second = (projection(encoder(each)) for each in views)
            return criterion(first, second)

        given = Views(rows, lambda row: transform(decode(row["image"])))
        return loop(given, batch, loss, _all(encoder, projection), optimiser, budget)

    return Peer(run, settings)
