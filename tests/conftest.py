"""What all tests share: nothing drawn from an unseeded generator, and worker processes that end with the
session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from processes import close_all


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same state of torch's generator, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _workers() -> Iterator[None]:
    yield
    close_all()
