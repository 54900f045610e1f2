"""Draws from the generators that a run seeds are noticed, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from counterpoint.training.randomness import DrawWatch, seed_everything

DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.rand(1),
    "dropout": lambda: nn.Dropout(0.1)(torch.ones(3)),
    "numpy": lambda: np.random.random(),  # noqa: NPY002 - what a library of others does
    "numpy's whole block": lambda: np.random.bytes(4 * 624),  # noqa: NPY002 - its position is then what it was
    "python": random.random,
}
QUIET: dict[str, Callable[[], Any]] = {
    "no dropout": lambda: nn.Dropout(0.0)(torch.ones(3)),
    "dropout at inference": lambda: nn.Dropout(0.5).eval()(torch.ones(3)),
    "a generator of its own": lambda: np.random.default_rng(0).random(),
    "torch's own": lambda: torch.rand(1, generator=torch.Generator().manual_seed(0)),
}


def noticed(action: Callable[[], Any]) -> bool:
    watch = DrawWatch(torch.device("cpu"))
    seed_everything(0, "a step")
    with watch.watching():
        action()
    return watch.drew


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_noticed(name: str) -> None:
    assert noticed(DRAWS[name])


@pytest.mark.parametrize("name", QUIET)
def test_nothing_else_is(name: str) -> None:
    assert not noticed(QUIET[name])


def test_what_was_noticed_is_kept() -> None:
    watch = DrawWatch(torch.device("cpu"))
    for action in (lambda: None, lambda: torch.rand(1), lambda: None):
        with watch.watching():
            action()
    assert watch.drew
