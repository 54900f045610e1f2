"""The clustered memory against loops, its ring, and what becomes of empty clusters."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from counterpoint.losses import sinkhorn
from counterpoint.memory.clusters import ClusterMemory, relaxed_sinkhorn


def _rows(count: int, seed: int, dim: int = 3) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _filled(size: int = 17, clusters: int = 3, **settings: object) -> ClusterMemory:
    memory = ClusterMemory(size, 3, clusters, **settings).double()  # type: ignore[arg-type]
    memory.push(_rows(size, 0))
    return memory


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))


def test_it_is_a_ring_until_it_is_full_then_it_has_clusters() -> None:
    memory = ClusterMemory(9, 3, 2).double()
    for step in (0, 1):
        memory.push(_rows(4, step))
        assert not memory.clustered and int(memory.pointer) == 4 * (step + 1)
        assert not memory.prototypes.any()
    memory.push(_rows(4, 2))
    assert memory.clustered and int(memory.pointer) == 0
    assert torch.equal(memory.bank, torch.cat([_rows(4, 0), _rows(4, 1), _rows(4, 2)[:1]])), "the rest is dropped"
    unit = torch.nn.functional.normalize(memory.bank, dim=1)
    for cluster in (0, 1):
        torch.testing.assert_close(memory.prototypes[cluster], unit[memory.labels == cluster].mean(dim=0))
    for row, label in zip(unit, memory.labels, strict=True):
        assert int((memory.prototypes - row).norm(dim=1).argmin()) == int(label), "k-means has converged"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "euclidean_released"])
def test_a_push_against_loops(distance: str, momentum: float) -> None:
    memory = _filled(distance=distance, momentum=momentum)
    before, rows = copy.deepcopy(memory), _rows(6, 1)
    memory.push(rows)
    scores = torch.empty(6, 3, dtype=torch.float64)
    for i, row in enumerate(rows):
        for k, prototype in enumerate(before.prototypes):
            cosine = _cosine(row, prototype)
            far = math.sqrt(2 - 2 * cosine)
            scores[i, k] = {"cosine": cosine, "euclidean": -far, "euclidean_released": far}[distance]
    labels = before.labels.clone()
    labels[:6] = sinkhorn(scores, epsilon=0.05, iterations=10).argmax(dim=1)
    assert torch.equal(memory.labels, labels)
    assert torch.equal(memory.bank, torch.cat([rows, before.bank[6:]])), "rows are kept at the length they came with"
    for cluster in range(3):
        members = [memory.bank[place] for place in range(17) if labels[place] == cluster]
        mean = sum(members) / len(members) if members else before.prototypes[cluster]
        wanted = (1 - momentum) * mean + momentum * before.prototypes[cluster]
        torch.testing.assert_close(memory.prototypes[cluster], wanted)


def test_a_cluster_without_members_stays_and_shifts_no_other() -> None:
    """The official code appends the count of an empty cluster at the end and so divides by wrong counts."""
    memory = _filled()
    memory.labels[memory.labels == 0] = 1
    before = memory.prototypes.clone()
    memory._average(memory.bank, 0.0)
    assert torch.equal(memory.prototypes[0], before[0])
    for cluster in (1, 2):
        torch.testing.assert_close(memory.prototypes[cluster], memory.bank[memory.labels == cluster].mean(dim=0))


def test_neighbours_are_those_of_the_own_cluster_in_places_of_the_whole_bank() -> None:
    memory, rows = _filled(40, 3), _rows(8, 5)
    found = memory.neighbours(rows, 2)
    for row, places in zip(rows, found.tolist(), strict=True):
        nearest = max(range(3), key=lambda k, row=row: _cosine(row, memory.prototypes[k]))
        members = [place for place in range(40) if memory.labels[place] == nearest]
        assert len(members) > 2
        assert places == sorted(members, key=lambda place, row=row: -_cosine(row, memory.bank[place]))[:2]


@pytest.mark.parametrize(("members", "whole"), [(1, True), (2, True), (3, False)])
def test_a_small_cluster_gives_way_to_the_whole_memory(members: int, whole: bool) -> None:
    memory = ClusterMemory(8, 3, 2).double()
    memory.clustered.fill_(1)
    memory.prototypes.copy_(torch.eye(3)[:2])
    memory.labels.copy_(torch.tensor([0] * members + [1] * (8 - members)))
    memory.bank.copy_(torch.tensor([[-1.0, 0, 0.1]] * members + [[1.0, 0, 0.1]] * (8 - members)))
    found = memory.neighbours(torch.tensor([[1.0, 0, 0]]).double(), 2)
    assert bool((found >= members).all()) == whole and bool((found < members).all()) != whole


def test_a_row_that_was_pushed_finds_itself() -> None:
    memory, rows = _filled(), _rows(4, 9)
    after = memory.pushed(rows)
    assert not torch.equal(after.bank, memory.bank) and int(memory.pointer) == 0, "the memory itself stays"
    own = after.neighbours(rows, 1)[:, 0]
    same = after.labels[:4] == (rows @ torch.nn.functional.normalize(after.prototypes, dim=1).T).argmax(dim=1)
    assert same.any() and torch.equal(own[same], torch.arange(4)[same])


def test_epsilon_grows_until_the_exponentials_fit() -> None:
    scores = _rows(8, 3, 4).float().abs()
    assert torch.equal(
        relaxed_sinkhorn(scores, epsilon=1e-5, iterations=5), sinkhorn(scores, epsilon=0.1 + 1e-5, iterations=5)
    )
    assert torch.equal(relaxed_sinkhorn(scores, epsilon=0.5, iterations=5), sinkhorn(scores, epsilon=0.5, iterations=5))


@pytest.mark.parametrize("before", [0, 2, 4, 6])
def test_it_resumes_bit_exactly(before: int) -> None:
    unbroken, first, resumed = (ClusterMemory(13, 3, 2).double() for _ in range(3))
    for step in range(8):
        unbroken.push(_rows(4, step))
    for step in range(before):
        first.push(_rows(4, step))
    resumed.load_state_dict(first.state_dict())
    for step in range(before, 8):
        resumed.push(_rows(4, step))
    for name, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_it_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="clusters <= size, got size=3, dim=2, clusters=4"):
        ClusterMemory(3, 2, 4)
    with pytest.raises(ValueError, match="distance must be one of cosine, .*, got 'l1'"):
        ClusterMemory(3, 2, 1, distance="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(N, 3\), got \(2, 4\)"):
        ClusterMemory(5, 3, 2).push(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="must be finite"):
        ClusterMemory(5, 3, 2).push(torch.full((2, 3), torch.nan))


def test_enhanced_rows_keep_their_order() -> None:
    memory, rows = _filled(), _rows(8, 5)
    out = memory.enhance(rows, 2)
    assert out.shape == (24, 3)
    torch.testing.assert_close(out[12:16], torch.nn.functional.normalize(rows[4:], dim=1))
    assert torch.equal(out[16:].unflatten(0, (4, 2)), memory.bank[memory.neighbours(rows[4:], 2)])
