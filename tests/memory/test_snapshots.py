"""Snapshots keep copies, not references; windows count from the newest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from counterpoint.memory.snapshots import LastValues, Snapshots


def _value(module: nn.Module) -> float:
    return float(module.weight)  # type: ignore[arg-type]


def test_the_best_of_a_round_and_of_the_one_before() -> None:
    net = nn.Linear(1, 1, bias=False)
    kept = Snapshots(net)
    assert kept.results() == []
    seen = []
    for scores in ([3.0, 1.0, 2.0], [9.0, 8.0, 8.5], [5.0]):
        kept.begin_round()
        for score in scores:
            net.weight.data.fill_(score)
            kept.offer(net, score)
            net.weight.data.fill_(-1.0)  # a reference would follow
        seen.append([_value(module) for module in kept.results()])
    assert seen == [[1.0], [1.0, 8.0], [8.0, 5.0]]
    assert not any(parameter.requires_grad for parameter in kept.parameters())


def test_state_travels() -> None:
    first, second = (Snapshots(nn.Linear(1, 1)) for _ in range(2))
    first.begin_round()
    first.offer(nn.Linear(1, 1), 2.0)
    second.load_state_dict(first.state_dict())
    second.offer(nn.Linear(1, 1), 3.0)  # not better: the copy stays
    torch.testing.assert_close(second.state_dict()["current.weight"], first.state_dict()["current.weight"])
    assert len(second.results()) == 1


def test_means_of_the_last_values() -> None:
    window = LastValues(3)
    with pytest.raises(ValueError, match="no value was pushed"):
        window.mean()
    for number in range(1, 6):
        window.push(torch.tensor(float(number)))
    assert (window.mean(), window.mean(1), window.mean(2), window.mean(9)) == (4.0, 5.0, 4.5, 4.0)
    window.reset()
    window.push(torch.tensor(7.0))
    assert window.mean() == 7.0
    with pytest.raises(ValueError, match="size must be at least 1"):
        LastValues(0)
