"""What is frozen stays frozen: no gradient, no dropout, statistics untouched."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from counterpoint.encoders.base import Encoder


class Toy(Encoder):
    """A batch-normalised stem, two blocks with dropout, a head."""

    kind = "toy"

    def __init__(self, trainable: Any = "all") -> None:
        super().__init__("toy")
        self.stem = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)) for _ in range(2))
        self.head = nn.Linear(8, 3)
        self.freeze(trainable)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)

    def head_parameters(self) -> list[str]:
        return ["head.weight", "head.bias"]

    def blocks(self) -> list[list[str]]:
        return [[f"layers.{index}.0.{part}" for part in ("weight", "bias")] for index in range(2)]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        return {}


def trained(model: nn.Module) -> set[str]:
    return {name.rsplit(".", 1)[0] for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("all", {"stem.0", "stem.1", "layers.0.0", "layers.1.0", "head"}),
        ("none", set()),
        ("head", {"head"}),
        ("last:1", {"layers.1.0", "head"}),
        ("last:2", {"layers.0.0", "layers.1.0", "head"}),
        (["stem.1", "head"], {"stem.1", "head"}),
        ("stem, head", {"stem.0", "stem.1", "head"}),
    ],
)
def test_what_is_trained(trainable: Any, expected: set[str]) -> None:
    assert trained(Toy(trainable)) == expected


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    model = Toy("last:1").train()
    assert not model.stem.training
    assert not model.stem[1].training
    assert not model.layers[0][1].training
    assert model.layers[1][1].training
    assert model.training
    before = copy.deepcopy(model.stem.state_dict())
    model(torch.randn(16, 4)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.stem.state_dict().items())
    assert model.stem[0].weight.grad is None
    assert model.head.weight.grad is not None
    assert not Toy("none").train().training


def test_a_copy_without_gradients_keeps_its_training_mode() -> None:
    copied = copy.deepcopy(Toy("all"))
    copied.requires_grad_(False)  # as a momentum encoder does
    assert copied.train().stem[1].training


@pytest.mark.parametrize("trainable", ["last:3", "last:0", "last:x", "nothing", ["stem", "tail"]])
def test_what_does_not_exist_is_refused(trainable: Any) -> None:
    with pytest.raises(ValueError, match="trainable"):
        Toy(trainable)


def test_no_head() -> None:
    model = Toy()
    model.head_parameters = list  # type: ignore[method-assign, assignment]
    with pytest.raises(ValueError, match="has no head"):
        model.freeze("head")
