from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoint.data.folds import check_labels, grouped_folds, search_alpha, unit_rows


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 7)), min_size=1, max_size=60), st.integers(2, 6))
def test_copies_stay_together_and_every_class_keeps_a_row(rows: list[tuple[int, int]], folds: int) -> None:
    labels = torch.tensor([label for label, _ in rows])
    groups = torch.tensor([10 * label + group for label, group in rows])  # a group has one label
    fold = grouped_folds(labels, groups, folds=folds)
    for group in groups.unique():
        assert len(fold[groups == group].unique()) == 1
    for held in fold[fold >= 0].unique():
        assert set(labels[fold != held].tolist()) == set(labels.tolist())
    alone = [label for label in labels.unique() if len(groups[labels == label].unique()) == 1]
    assert all(bool((fold[labels == label] == -1).all()) for label in alone)


def test_folds_of_a_class_differ_by_at_most_one_image() -> None:
    fold = grouped_folds(torch.zeros(13, dtype=torch.int64))
    assert sorted(fold.bincount().tolist()) == [2, 2, 3, 3, 3]


def test_features_and_labels_are_checked() -> None:
    rows = unit_rows("features", torch.tensor([[3.0, 4.0]]).half())
    assert rows.dtype == torch.float64 and torch.allclose(rows, torch.tensor([[0.6, 0.8]], dtype=torch.float64))
    with pytest.raises(TypeError, match="floating point"):
        unit_rows("features", torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="row 1 is not finite"):
        unit_rows("features", torch.tensor([[1.0], [float("nan")]]))
    with pytest.raises(ValueError, match=r"must be \(N, D\)"):
        unit_rows("features", torch.ones(3))
    features = torch.ones(3, 2)
    assert check_labels(features, torch.tensor([0, 2, 2]), 4).tolist() == [1, 0, 2, 0]
    with pytest.raises(ValueError, match=r"lie in 0\.\.1, got 0\.\.2"):
        check_labels(features, torch.tensor([0, 2, 2]), 2)
    with pytest.raises(ValueError, match="one a row"):
        check_labels(features, torch.tensor([0]))
    with pytest.raises(TypeError, match="integers"):
        check_labels(features, torch.ones(3))


def test_alpha_is_searched_in_order_and_the_first_best_wins() -> None:
    alphas = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    text, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 0])
    head = torch.tensor([[0.0, 0.2], [0.0, -0.2]])
    assert search_alpha(text, head, labels, alphas) == (10.0, 1.0)  # 10 and 100 are right on both, 10 comes first
    assert search_alpha(text, torch.zeros(2, 2), labels, alphas) == (1e-4, 0.5)
    assert search_alpha(text, torch.zeros(2, 2), torch.tensor([1, 1]), alphas) == (0.1, 0.0)  # nothing is ever right
