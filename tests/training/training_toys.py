"""Small systems over rows of numbers, for the tests of the trainer."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from counterpoint.data import BadRow
from counterpoint.run import list_checkpoints
from counterpoint.storage import read_tensors
from counterpoint.system import Stage, System, Term

WIDTH, DIM = 8, 6


def make_rows(count: int = 64, *, seed: int = 0, width: int = WIDTH) -> list[dict[str, Any]]:
    """Rows with a vector `x` and a length `n`."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((count, width))
    return [{"id": f"r{i:04d}", "x": values[i].tolist(), "n": int(generator.integers(1, 5))} for i in range(count)]


class NoisyViews:
    """Two noisy copies of a row's vector."""

    def __init__(self, noise: float = 0.1, dtype: str = "float32") -> None:
        self.noise, self.dtype = noise, dtype

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        x = np.asarray(row["x"])
        dtype = getattr(torch, self.dtype)
        first, second = (torch.as_tensor(x + self.noise * rng.standard_normal(x.shape), dtype=dtype) for _ in range(2))
        return {"first": first, "second": second, "n": row["n"]}


def contrast(first: Tensor, second: Tensor, temperature: float = 0.2) -> Tensor:
    """In-batch cross-entropy, written out."""
    logits = normalize(first, dim=1) @ normalize(second, dim=1).T / temperature
    return cross_entropy(logits, torch.arange(len(first)))


class Toy(System):
    """Two-layer perceptron with an in-batch contrast and a head inside the loss."""

    needs = ("x",)
    modality = "numbers"

    def __init__(self, noise: float = 0.1, dropout: float = 0.0, dtype: str = "float32") -> None:
        super().__init__()
        self.noise, self.dtype = noise, dtype
        self.backbone = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, DIM))
        self.head = nn.Linear(DIM, DIM)
        self.to(getattr(torch, dtype))

    def views(self) -> Callable[..., dict[str, Any]]:
        return NoisyViews(self.noise, self.dtype)

    def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"first": self.backbone(batch["first"]), "second": self.backbone(batch["second"])}

    def loss(self, features: dict[str, Tensor]) -> dict[str, Tensor | Term]:
        return {"contrast": contrast(self.head(features["first"]), self.head(features["second"]))}

    def pair(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return features["first"], features["second"]

    def embed(self, batch: dict[str, Any]) -> Tensor:
        return self.backbone(batch["first"])


class QueueToy(Toy):
    """Momentum encoder, queue of keys, and a schedule that follows the clock."""

    def __init__(self, size: int = 24, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = nn.Linear(WIDTH, DIM)
        self.online = nn.Linear(WIDTH, DIM)
        self.momentum.load_state_dict(self.online.state_dict())
        self.momentum.requires_grad_(False)
        self.register_buffer("queue", torch.zeros(size, DIM))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.register_buffer("noise_seen", torch.zeros(()))

    def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        with torch.no_grad():
            key = self.momentum(batch["second"])
        return {"query": self.online(batch["first"]) + self.backbone(batch["first"]), "key": key}

    def loss(self, features: dict[str, Tensor]) -> dict[str, Tensor | Term]:
        keys = torch.cat([features["key"], self.queue.clone()])
        logits = normalize(features["query"], dim=1) @ normalize(keys, dim=1).T / 0.2
        loss = cross_entropy(logits, torch.arange(len(logits)))
        return {"contrast": Term(loss + self.head.weight.square().mean(), guess=float(np.log(len(keys))))}

    def after_step(self, features: dict[str, Tensor]) -> None:
        momentum = 0.9 + 0.1 * self.clock.progress
        for slow, fast in zip(self.momentum.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)
        places = (self.pointer + torch.arange(len(features["key"]))) % len(self.queue)
        self.queue[places] = features["key"].to(self.queue.dtype)
        self.pointer.copy_((self.pointer + len(features["key"])) % len(self.queue))
        self.noise_seen += torch.rand(())  # random numbers after the step must be repeatable, too

    def pair(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return features["query"], features["key"]


class BatchNormToy(Toy):
    """A BatchNorm in the encoder."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backbone = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, DIM))
        self.to(getattr(torch, self.dtype))


class UncoupledToy(Toy):
    """Rows never meet; one term is a mean over the rows, the other over an uneven count."""

    couples = False

    def encode(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {**super().encode(batch), "n": batch["n"]}

    def loss(self, features: dict[str, Tensor]) -> dict[str, Tensor | Term]:
        error = (self.head(features["first"]) - features["second"]).square().mean(dim=1)
        count = features["n"].to(error.dtype)
        weighed = (features["second"] - 1).abs().mean(dim=1) * count
        return {"mean": error.mean(), "uneven": Term(weighed.sum(), count.sum(), weight=0.5)}


class StagedToy(Toy):
    """Warms up the head, then trains all with the same optimiser state, then the backbone with another."""

    def stages(self) -> list[Stage]:
        return [
            Stage("head", steps=3, train=("head",), state="shared"),
            Stage("all", steps=None, state="shared"),
            Stage("late", steps=4, train=("backbone",), loss="late_loss", batch=8, optimiser={"name": "sgd"}),
        ]

    def late_loss(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"late": (features["first"] - features["second"]).square().mean()}


def states_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Same names, same bits."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def final_weights(path: str | Path) -> dict[str, Tensor]:
    return read_tensors(Path(path) / "model.safetensors")


class BadRowViews:
    """A view that cannot use every ninth row."""

    def __init__(self, view: Callable[..., dict[str, Any]]) -> None:
        self.view = view

    def __call__(self, row: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if int(row["id"][1:]) % 9 == 0:
            raise BadRow("a ninth row")
        return self.view(row, rng)


def build(kind: type[Toy], seed: int = 0, **options: Any) -> Toy:
    """A toy with its first weights."""
    torch.manual_seed(seed)
    return kind(**options)


TOYS: Sequence[type[Toy]] = (Toy, QueueToy, BatchNormToy, UncoupledToy, StagedToy)


def stop_after(toy: Toy, steps: int) -> Toy:
    """Ask for a stop, as Ctrl-C does, while step number `steps` from here is computed."""
    encode, calls = toy.encode, [0]

    def counted(batch: dict[str, Any]) -> dict[str, Tensor]:
        calls[0] += 1
        if calls[0] == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(batch)

    toy.encode = counted  # type: ignore[method-assign]
    return toy


def same_end(first: Path, second: Path) -> bool:
    """Whether two finished runs have the same weights and the same optimiser state, to the bit."""
    if not states_equal(final_weights(first), final_weights(second)):
        return False
    newest = [list_checkpoints(path / "checkpoints")[-1] for path in (first, second)]
    return newest[0].name == newest[1].name and states_equal(
        *(read_tensors(path / "optimiser.safetensors") for path in newest)
    )
