"""Queues, momentum encoders and prototypes: what they hold, and that saving them loses nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from counterpoint.memory import MomentumEncoder, Prototypes, Queue, Queues
from counterpoint.memory.momentum import momentum_at


def _rows(count: int, seed: int, dim: int = 3) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sizes", [(4, 4, 4, 4), (3, 1, 7, 2, 5), (10, 10), (25, 3), (10, 1, 9, 1)])
def test_queue_holds_the_last_rows_oldest_first(sizes: tuple[int, ...]) -> None:
    queue, pushed = Queue(10, 3), torch.empty(0, 3)
    for step, size in enumerate(sizes):
        rows = _rows(size, step)
        queue.push(rows)
        pushed = torch.cat([pushed, rows])
        assert torch.equal(queue.rows(), pushed[-10:])
        assert len(queue) == min(len(pushed), 10)
        assert queue.full == (len(pushed) >= 10)


def test_queue_starts_empty_or_with_unit_rows() -> None:
    assert Queue(5, 2).rows().shape == (0, 2)
    assert not Queue(5, 2).full
    queue = Queue(5, 4, normalised_start=True)
    assert queue.full
    torch.testing.assert_close(queue.rows().norm(dim=1), torch.ones(5))
    before = queue.rows()
    queue.push(_rows(2, 0, 4))
    assert torch.equal(queue.rows()[:3], before[2:])
    assert int(queue.pointer) == 2


def test_queue_keeps_no_gradient_and_no_view() -> None:
    queue, rows = Queue(4, 3), _rows(2, 0).requires_grad_()
    queue.push(rows)
    held = queue.rows()
    assert not held.requires_grad
    with torch.no_grad():
        rows.zero_()
    queue.push(_rows(4, 1))
    assert held.abs().sum() > 0
    assert torch.equal(held, _rows(2, 0))


def test_queue_resets() -> None:
    queue = Queue(4, 3)
    queue.push(_rows(6, 0))
    queue.reset()
    assert len(queue) == 0
    assert int(queue.pointer) == 0
    queue.push(_rows(2, 1))
    assert torch.equal(queue.rows(), _rows(2, 1))


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("before", [0, 1, 3, 7])
def test_queue_resumes_bit_exactly_while_growing_and_after(start: bool, before: int) -> None:
    unbroken = Queue(10, 3, normalised_start=start)
    initial = copy.deepcopy(unbroken.state_dict())
    for step in range(12):
        unbroken.push(_rows(3, step))
    first = Queue(10, 3, normalised_start=start)
    first.load_state_dict(initial)
    for step in range(before):
        first.push(_rows(3, step))
    resumed = Queue(10, 3, normalised_start=start)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(before, 12):
        resumed.push(_rows(3, step))
    assert torch.equal(resumed.rows(), unbroken.rows())
    for name, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_queue_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="size >= 1 and dim >= 1, got size=0, dim=3"):
        Queue(0, 3)
    with pytest.raises(ValueError, match=r"shape \(B, 3\), got \(2, 4\)"):
        Queue(5, 3).push(_rows(2, 0, 4))
    with pytest.raises(ValueError, match="rows must be finite, but row 1"):
        Queue(5, 3).push(torch.tensor([[1.0, 1, 1], [1, float("nan"), 1]]))


def test_queues_are_kept_apart_by_key() -> None:
    queues = Queues(["de", "en"], 4, 3)
    rows = _rows(5, 0)
    queues.push(rows, ["en", "de", "en", "en", "de"])
    assert torch.equal(queues["en"].rows(), rows[[0, 2, 3]])
    assert torch.equal(queues["de"].rows(), rows[[1, 4]])
    assert list(queues) == ["de", "en"]
    assert len(queues) == 2
    queues.reset()
    assert len(queues["en"]) == 0
    with pytest.raises(ValueError, match=r"no queue for 'fr'; there are queues for \['de', 'en'\]"):
        queues["fr"]
    with pytest.raises(ValueError, match="2 keys for 5 rows"):
        queues.push(rows, ["en", "de"])


def test_queues_take_any_key() -> None:
    queues = Queues(["layer.3", "zh-Hans", "keys"], 4, 3)
    queues["layer.3"].push(_rows(2, 0))
    again = Queues(["layer.3", "zh-Hans", "keys"], 4, 3)
    again.load_state_dict(queues.state_dict())
    assert torch.equal(again["layer.3"].rows(), _rows(2, 0))
    with pytest.raises(ValueError, match="keys must differ"):
        Queues(["a", "a"], 4, 3)


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_momentum_encoder_follows_the_equation() -> None:
    network = _network(0)
    follower = MomentumEncoder(network, 0.9)
    start = {name: value.clone() for name, value in follower.module.named_parameters()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    network(_rows(8, 0))  # moves the running statistics
    follower.update(network)
    for name, value in follower.module.named_parameters():
        expected = 0.9 * start[name] + 0.1 * dict(network.named_parameters())[name].detach()
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    for name, buffer in follower.module.named_buffers():
        assert torch.equal(buffer, dict(network.named_buffers())[name])


def test_momentum_can_be_given_for_a_step() -> None:
    network, other = _network(0), _network(1)
    follower = MomentumEncoder(network, 0.9)
    follower.update(other, momentum=1.0)
    assert torch.equal(follower.module[0].weight, network[0].weight)
    follower.update(other, momentum=0.0)
    assert torch.equal(follower.module[0].weight, other[0].weight)


def test_momentum_encoder_has_no_gradient_and_is_a_copy() -> None:
    network = _network(0)
    follower = MomentumEncoder(network, 0.9)
    assert not any(parameter.requires_grad for parameter in follower.parameters())
    inputs = _rows(4, 0).requires_grad_()
    assert not follower(inputs).requires_grad
    with torch.no_grad():
        network[0].weight.zero_()
    assert follower.module[0].weight.abs().sum() > 0
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_momentum_encoder_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\], got 1.5"):
        MomentumEncoder(_network(0), 1.5)
    follower = MomentumEncoder(_network(0), 0.9)
    with pytest.raises(ValueError, match=r"only one has \['0.bias'"):
        follower.update(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def test_prototypes_score_and_normalise() -> None:
    prototypes = Prototypes(3, 5)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(5))
    rows = _rows(4, 0)
    torch.testing.assert_close(prototypes(rows), rows @ prototypes.weight.T)
    with torch.no_grad():
        prototypes.weight.mul_(7.0)
    before = prototypes.weight
    prototypes.normalise_()
    assert prototypes.weight is before
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(5))


def test_frozen_prototypes_get_no_gradient_but_pass_one_on() -> None:
    prototypes, rows = Prototypes(3, 5), _rows(4, 0).requires_grad_()
    prototypes.frozen = True
    prototypes(rows).square().sum().backward()
    assert prototypes.weight.grad is None
    assert rows.grad is not None
    assert rows.grad.abs().sum() > 0
    prototypes.frozen = False
    prototypes(rows).square().sum().backward()
    assert prototypes.weight.grad is not None


def test_prototypes_name_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="dim >= 1 and count >= 1, got dim=3, count=0"):
        Prototypes(3, 0)
    with pytest.raises(ValueError, match=r"width 3, got \(2, 4\)"):
        Prototypes(3, 5)(_rows(2, 0, 4))


def test_momentum_rises_to_one() -> None:
    assert [momentum_at(p, 0.9) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
