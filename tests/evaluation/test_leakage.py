"""The leak table: every attribute read from every space, on rows that have all attributes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint.data import Rows
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.linear_probe import linear_probe
from counterpoint.evaluation.protocols.leakage import Leakage
from counterpoint.system import System


class _TwoSpaces(System):
    """`common` holds the row's first two numbers, `salient` the other two."""

    needs = ("text",)

    def preprocess(self) -> Any:
        return _read

    def embed(self, batch: Any) -> dict[str, Tensor]:
        return {"common": batch["vector"][:, :2], "salient": batch["vector"][:, 2:]}


class _OneSpace(_TwoSpaces):
    def embed(self, batch: Any) -> dict[str, Tensor]:
        return batch["vector"]


def _read(row: Any) -> dict[str, Tensor]:
    return {"vector": torch.tensor([float(part) for part in row["text"].split()])}


def _vectors(rows: int, seed: int, *, leak: float) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (N, 4) and both attributes (N,): `leak` is how much of the salient one is in the common space."""
    generator = torch.Generator().manual_seed(seed)
    common, salient = torch.randint(0, 3, (2, rows), generator=generator)
    vectors = 0.3 * torch.randn(rows, 4, generator=generator)
    vectors[:, 0] += common
    vectors[:, 1] += leak * salient
    vectors[:, 2] += salient
    return vectors, common, salient


def _rows(seed: int = 0, rows: int = 240, leak: float = 0.0, background: int = 40, **names: str) -> Rows:
    """Every row has both attributes but the first ones, the background, which has no salient one."""
    vectors, common, salient = _vectors(rows, seed, leak=leak)
    found = [
        {
            "text": " ".join(map(str, vector.tolist())),
            names.get("common", "label"): int(c),
            names.get("salient", "salient"): None if number < background else f"kind {s}",
        }
        for number, (vector, c, s) in enumerate(zip(vectors, common.tolist(), salient.tolist(), strict=True))
    ]
    return Rows.from_list(found)


def _table(system: System, train: Rows, test: Rows, settings: Any = None) -> dict[str, Any]:
    return evaluate(system, test, train_data=train, protocols={"leakage": settings})


def test_the_table_is_that_of_four_probes_on_target_rows() -> None:
    found = _table(_TwoSpaces(), _rows(), _rows(1))
    parts = [_vectors(240, seed, leak=0.0) for seed in (0, 1)]
    (known, *train_labels), (vectors, *test_labels) = [[value[40:] for value in part] for part in parts]
    assert found["protocols"]["leakage"]["train_rows"] == found["protocols"]["leakage"]["test_rows"] == 200
    for place, attribute in enumerate(("common", "salient")):
        for space, columns in (("common", slice(0, 2)), ("salient", slice(2, 4))):
            probe = linear_probe(
                known[:, columns], train_labels[place], vectors[:, columns], test_labels[place], seed=0
            )
            assert found["scores"][f"leakage/{attribute}_from_{space}"] == pytest.approx(probe.accuracy)
        commonest = train_labels[place].bincount().argmax()
        guess = float((test_labels[place] == commonest).double().mean())
        assert found["chance"][f"leakage/{attribute}_from_common"] == pytest.approx(guess)


def test_a_leak_is_seen_from_the_space_that_should_not_know() -> None:
    clean, leaking = (_table(_TwoSpaces(), _rows(leak=leak), _rows(1, leak=leak))["scores"] for leak in (0.0, 1.0))
    for own in ("common_from_common", "salient_from_salient"):
        assert clean[f"leakage/{own}"] > 0.85 and leaking[f"leakage/{own}"] > 0.85
    assert clean["leakage/salient_from_common"] < 0.45
    assert leaking["leakage/salient_from_common"] > 0.85
    assert clean["leakage/common_from_salient"] < 0.45 and leaking["leakage/common_from_salient"] < 0.45


def test_a_model_with_one_space_has_one_column() -> None:
    scores = _table(_OneSpace(), _rows(), _rows(1))["scores"]
    assert set(scores) == {"leakage/common_from_embedding", "leakage/salient_from_embedding"}
    assert min(scores.values()) > 0.85


def test_without_training_rows_a_fifth_of_the_target_is_scored() -> None:
    notes = evaluate(_TwoSpaces(), _rows(), protocols=["leakage"])["protocols"]["leakage"]
    assert notes["train_rows"] + notes["test_rows"] == 200
    assert 35 <= notes["test_rows"] <= 45
    assert "of the given rows" in notes["train"]


def _defects(kinds: list[str], rows: int, seed: int) -> Rows:
    """`label` is the salient attribute, as in `textures`."""
    vectors = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    labels = [n % len(kinds) for n in range(rows)]
    found = [
        {"text": " ".join(map(str, (vector + label).tolist())), "label": label}
        for vector, label in zip(vectors, labels, strict=True)
    ]
    return Rows.from_list(found, class_names=kinds)


def test_a_background_class_among_the_training_rows_is_not_learnt_from() -> None:
    """Its name decides, not the labels that happen to be scored."""
    settings = {"common": None, "salient": "label"}
    train, test = _defects(["global", "local", "sound"], 90, 0), _defects(["global", "local"], 40, 1)
    found = _table(_TwoSpaces(), train, test, settings)
    assert found["protocols"]["leakage"]["train_rows"] == 60
    assert found["chance"]["leakage/salient_from_common"] == 0.5
    without = train.select([n for n in range(90) if n % 3 < 2])
    assert found["scores"] == _table(_TwoSpaces(), without, test, settings)["scores"]
    with pytest.raises(ValueError, match="share no class with rows: torn, stained"):
        _table(_TwoSpaces(), train, _defects(["torn", "stained"], 40, 1), settings)


def test_columns_are_settings_and_either_may_be_left_out() -> None:
    names = {"common": "label", "salient": "disease"}
    named = _table(_TwoSpaces(), _rows(**names), _rows(1, **names), {"salient": "disease"})
    assert named["scores"] == _table(_TwoSpaces(), _rows(), _rows(1))["scores"]
    alone = _table(_TwoSpaces(), _rows(), _rows(1), {"salient": None})
    assert set(alone["scores"]) == {"leakage/common_from_common", "leakage/common_from_salient"}
    assert alone["protocols"]["leakage"]["test_rows"] == 240, "background rows have a label as well"
    with pytest.raises(ValueError, match="both None: name the column"):
        Leakage(common=None, salient=None)


def test_what_is_missing_is_named_and_other_data_are_left_alone() -> None:
    plain = Rows.from_list([{"text": "0 0 0 0", "label": n % 2} for n in range(20)])
    with pytest.raises(ValueError, match="needs the column 'salient'; found text, label"):
        evaluate(_TwoSpaces(), plain, protocols=["leakage"])
    assert "leakage" in evaluate(_TwoSpaces(), plain)["not_run"]
    with pytest.raises(ValueError, match="no row of .* has a value in label and salient"):
        evaluate(_TwoSpaces(), _rows(background=240), protocols=["leakage"])
    same = Rows.from_list([{"text": f"{n} 0 0 0", "label": n % 2, "salient": "x"} for n in range(20)])
    with pytest.raises(ValueError, match="two values of 'salient' to learn from"):
        evaluate(_TwoSpaces(), same, protocols=["leakage"])
