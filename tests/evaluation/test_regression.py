"""The ridge probe against its closed form, errors against loops, and proof that test targets never steer it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from counterpoint.data import Rows, open_rows
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.regression import regression_errors, ridge_probe
from counterpoint.system import System


def _data(rows: int = 120, noise: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(rows, 6, generator=generator, dtype=torch.float64) * torch.tensor([1, 1, 1, 9, 1, 0.1])
    targets = vectors @ torch.tensor([1.0, -2, 0.5, 0.1, 0, 3], dtype=torch.float64) + 7
    targets = targets + noise * torch.randn(rows, generator=generator, dtype=torch.float64)
    return vectors[::2], targets[::2], vectors[1::2], targets[1::2]


def test_errors_in_loops() -> None:
    rng = np.random.default_rng(0)
    predicted, targets = rng.normal(size=30), rng.normal(size=30)
    found = regression_errors(predicted, targets)
    pairs = list(zip(predicted, targets, strict=True))
    assert found.mae == pytest.approx(sum(abs(p - t) for p, t in pairs) / 30)
    assert found.rmse == pytest.approx((sum((p - t) ** 2 for p, t in pairs) / 30) ** 0.5)
    assert found.pearson == pytest.approx(stats.pearsonr(predicted, targets).statistic)
    assert regression_errors([2, 2, 2], [1, 2, 3]).pearson == 0.0


def test_predictions_are_the_closed_form_on_standardised_vectors() -> None:
    train, targets, test, _ = _data()
    found = ridge_probe(train, targets, test, strengths=(10.0,))
    mean, deviation = train.mean(0), train.std(0, correction=0)
    x, y = (train - mean) / deviation, targets - targets.mean()
    weights = torch.linalg.solve(x.T @ x + 10.0 * torch.eye(6, dtype=torch.float64), x.T @ y)
    expected = (test - mean) / deviation @ weights + targets.mean()
    np.testing.assert_allclose(found.predictions, expected.numpy(), atol=1e-10)
    assert found.selection == {}


def test_the_strength_is_the_best_of_the_cross_validation() -> None:
    train, targets, test, _ = _data()
    found = ridge_probe(train, targets, test)
    assert len(found.selection) == 6
    assert found.selection[found.strength] == min(found.selection.values())
    noise = torch.randn(len(train), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert ridge_probe(train, noise, test).strength > found.strength, "noise asks for the strongest penalty"


def test_no_fit_ever_sees_a_test_row(monkeypatch: pytest.MonkeyPatch) -> None:
    train, targets, test, _ = _data()
    known = {row.tobytes() for row in train.numpy()}
    module = importlib.import_module("counterpoint.evaluation.regression")
    fit, seen = module._fit, []

    def watched(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
        assert all(row.tobytes() in known for row in x)
        seen.append(len(x))
        return fit(x, y, strength)

    monkeypatch.setattr(module, "_fit", watched)
    ridge_probe(train, targets, test)
    assert seen == [48] * 30 + [60]


def test_few_rows_take_the_middle_strength() -> None:
    assert ridge_probe(torch.randn(4, 2), torch.arange(4.0), torch.randn(2, 2)).strength == 10.0


def test_errors_name_the_argument() -> None:
    train, targets, test, _ = _data()
    with pytest.raises(ValueError, match="train has 6 dimensions, test 5"):
        ridge_probe(train, targets, test[:, :5])
    with pytest.raises(ValueError, match="train_targets must be 60 finite numbers"):
        ridge_probe(train, targets / 0, test)
    with pytest.raises(ValueError, match="strengths must be numbers above 0"):
        ridge_probe(train, targets, test, strengths=(0.0, 1.0))
    with pytest.raises(ValueError, match="must be finite"):
        regression_errors([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(ValueError, match="all 2 targets are 3"):
        regression_errors([1.0, 2.0], [3.0, 3.0])
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        regression_errors([1.0, 2.0], [1.0, 2.0, 3.0])


class _Numbers(System):
    """Embeds the column `text`, a list of numbers as text."""

    needs = ("text",)

    def preprocess(self) -> Any:
        return _read

    def embed(self, batch: Any) -> Tensor:
        return batch["vector"]


def _read(row: Any) -> dict[str, Tensor]:
    return {"vector": torch.tensor([float(part) for part in row["text"].split()])}


def _rows(vectors: Tensor, targets: list[Any]) -> Rows:
    found = [
        {"text": " ".join(map(str, vector.tolist())), "target": target}
        for vector, target in zip(vectors, targets, strict=True)
    ]
    return Rows.from_list(found)


def test_the_protocol_scores_against_a_guesser() -> None:
    train, train_targets, test, targets = _data()
    found = evaluate(
        _Numbers(),
        _rows(test, targets.tolist()),
        train_data=_rows(train, train_targets.tolist()),
        protocols=["regression"],
    )
    expected = regression_errors(ridge_probe(train.float(), train_targets, test.float()).predictions, targets)
    for name, value in expected._asdict().items():
        assert found["scores"][f"regression/{name}"] == pytest.approx(value, rel=1e-5)
    known, wanted = train_targets.numpy(), targets.numpy()
    assert found["chance"] == {
        "regression/mae": pytest.approx(np.abs(wanted - np.median(known)).mean()),
        "regression/rmse": pytest.approx(np.sqrt(((wanted - known.mean()) ** 2).mean())),
        "regression/pearson": 0.0,
    }
    assert found["scores"]["regression/mae"] < found["chance"]["regression/mae"] / 3


def test_noise_vectors_are_no_better_than_the_guesser() -> None:
    train, train_targets, test, targets = _data()
    generator = torch.Generator().manual_seed(5)
    noise = [torch.randn(part.shape, generator=generator) for part in (train, test)]
    found = evaluate(
        _Numbers(),
        _rows(noise[1], targets.tolist()),
        train_data=_rows(noise[0], train_targets.tolist()),
        protocols=["regression"],
    )
    assert found["scores"]["regression/mae"] > 0.9 * found["chance"]["regression/mae"]
    assert abs(found["scores"]["regression/pearson"]) < 0.4


def test_without_training_rows_a_fifth_is_scored_and_rows_without_target_are_left_out() -> None:
    train, targets, _, _ = _data()
    found = evaluate(_Numbers(), _rows(train, [None, float("nan"), *targets[2:].tolist()]), protocols=["regression"])
    notes = found["protocols"]["regression"]
    assert (notes["train_rows"], notes["test_rows"]) == (46, 12)
    with pytest.raises(ValueError, match="needs numbers in the column 'target', found 'old'"):
        evaluate(_Numbers(), _rows(train, ["old", *targets[1:].tolist()]), protocols=["regression"])
    with pytest.raises(ValueError, match="two different targets"):
        evaluate(_Numbers(), _rows(train, [1.0] * len(train)), protocols=["regression"])
    with pytest.raises(ValueError, match="train_data .* has no column 'target'"):
        evaluate(_Numbers(), _rows(train, targets.tolist()), train_data=[{"text": "1"}], protocols=["regression"])


class _Brightness(_Numbers):
    needs = ("image",)

    def preprocess(self) -> Any:
        return _brightness


def _brightness(row: Any) -> dict[str, Tensor]:
    return {"vector": torch.tensor([float(len(row["image"])), 1.0])}


def test_a_built_in_set_is_learnt_from_its_train_split() -> None:
    found = evaluate(_Brightness(), "rotated-digits", protocols=["regression"])
    assert found["data"]["split"] == "test"
    assert found["protocols"]["regression"]["train"] == "rotated-digits, split train"
    inside = evaluate(_Brightness(), open_rows("rotated-digits:train-150"), protocols=["regression"])
    assert inside["train_data"] is None, "rows of the train split are not learnt from and scored at once"
