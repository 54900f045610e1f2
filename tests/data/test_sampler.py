from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.data.sampler import GroupPlan, Plan


def test_plan_uses_every_row_once() -> None:
    plan = Plan(23, batch=5, seed=1, drop_last=False)
    batches = plan.epoch(0)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3] and plan.batches == 5
    assert sorted(np.concatenate(batches)) == list(range(23))
    dropped = Plan(23, batch=5, seed=1)
    assert [len(batch) for batch in dropped.epoch(0)] == [5, 5, 5, 5] and dropped.batches == 4


def test_plan_is_a_function_of_seed_and_epoch() -> None:
    plan = Plan(100, batch=10, seed=3)
    assert np.array_equal(plan.epoch(4), Plan(100, batch=10, seed=3).epoch(4))
    assert not np.array_equal(plan.epoch(4), plan.epoch(5))
    assert not np.array_equal(plan.epoch(4), Plan(100, batch=10, seed=4).epoch(4))
    still = Plan(100, batch=10, seed=3, shuffle=False)
    assert np.array_equal(np.concatenate(still.epoch(0)), np.arange(100))
    assert np.array_equal(still.epoch(0), still.epoch(9))


group_sizes = st.lists(st.integers(1, 12), min_size=2, max_size=40)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(group_sizes, st.integers(1, 20), st.integers(0, 5), st.integers(0, 50))
def test_full_batches_of_distinct_groups(sizes: list[int], batch: int, seed: int, epoch: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    if len(sizes) < batch:
        with pytest.raises(ValueError, match="choose batch <="):
            GroupPlan(groups, batch=batch, seed=seed)
        return
    plan = GroupPlan(groups, batch=batch, seed=seed)
    batches = plan.epoch(epoch)
    assert len(batches) == plan.batches >= 1
    for rows in batches:
        assert len(rows) == batch and len({groups[row] for row in rows}) == batch
    everything = np.concatenate(batches)
    assert len(set(everything.tolist())) == len(everything)
    best = max(count for count in range(len(groups) + 1) if np.minimum(sizes, count).sum() >= count * batch)
    assert plan.batches == best


@settings(max_examples=60, deadline=None, derandomize=True)
@given(group_sizes, st.integers(1, 20), st.integers(0, 3))
def test_every_row_of_a_group_is_used_equally_often(sizes: list[int], batch: int, seed: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    batch = min(batch, len(sizes))
    plan = GroupPlan(groups, batch=batch, seed=seed)
    uses: Counter[int] = Counter()
    for epoch in range(40):
        uses.update(np.concatenate(plan.epoch(epoch)).tolist())
    for group in range(len(sizes)):
        counts = [uses[row] for row, other in enumerate(groups) if other == group]
        assert max(counts) - min(counts) <= 1
    assert sum(uses.values()) == 40 * plan.batches * batch


def test_no_row_is_left_out_over_time() -> None:
    sizes = [60, 30, 9, 4, 3, 2, *[1] * 20]
    groups = [f"g{group}" for group, size in enumerate(sizes) for _ in range(size)]
    plan = GroupPlan(groups, batch=16, seed=0)
    seen: set[int] = set()
    for epoch in range(max(sizes)):
        seen |= set(np.concatenate(plan.epoch(epoch)).tolist())
    assert seen == set(range(len(groups)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(group_sizes, st.integers(1, 20), st.integers(0, 30))
def test_without_drop_last_every_row_is_in_every_epoch(sizes: list[int], batch: int, epoch: int) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    plan = GroupPlan(groups, batch=batch, seed=0, drop_last=False)
    batches = plan.epoch(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(groups)))
    assert max(map(len, batches)) <= batch
    assert all(len({groups[row] for row in rows}) == len(rows) for rows in batches)


def test_epochs_mix_differently() -> None:
    groups = [number // 2 for number in range(80)]
    plan = GroupPlan(groups, batch=10, seed=0)
    first, second = ({frozenset(rows.tolist()) for rows in plan.epoch(epoch)} for epoch in (0, 1))
    assert first != second
    assert np.array_equal(plan.epoch(1), GroupPlan(groups, batch=10, seed=0).epoch(1))
