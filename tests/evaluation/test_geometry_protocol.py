"""Tolerance among the geometry scores: with labels only, and over the rows that have one."""

from __future__ import annotations

import pytest
from torch.nn.functional import normalize

from counterpoint.data import Rows
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.embedding import embed_all
from toy_models import COLOURS, ImageModel, PairModel, coloured


def _rows(labels: list[int | None] | None) -> Rows:
    rows = [{"id": row["id"], "image": row["image"], "text": row["text"]} for row in coloured(12, 0)]
    if labels is not None:
        rows = [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
    return Rows.from_list(rows, name="cards", class_names=list(COLOURS) if labels is not None else None)


def _scores(model: object, rows: Rows) -> dict[str, float]:
    return dict(evaluate(model, rows, protocols=["geometry"])["scores"])


def test_tolerance_is_the_mean_similarity_of_two_rows_of_a_class() -> None:
    labels: list[int | None] = [0, 0, 0, 1, 1, None, 2, None, None, 3, 1, 0]
    model, rows = ImageModel(), _rows(labels)
    ids, spaces = embed_all(model, rows)
    vectors = normalize(next(iter(spaces.values())), dim=1)
    label_of = dict(zip(rows.column("id"), labels, strict=True))
    found = [
        float(vectors[i] @ vectors[j])
        for i in range(len(ids))
        for j in range(len(ids))
        if i != j and label_of[ids[i]] is not None and label_of[ids[i]] == label_of[ids[j]]
    ]
    assert len(found) == 4 * 3 + 3 * 2
    assert _scores(model, rows)["geometry/tolerance"] == pytest.approx(sum(found) / len(found), abs=1e-5)


@pytest.mark.parametrize("labels", [None, [None] * 12, [0, 1, 2, 3, *[None] * 8]])
def test_without_two_rows_of_a_class_there_is_no_tolerance(labels: list[int | None] | None) -> None:
    assert not [name for name in _scores(ImageModel(), _rows(labels)) if "tolerance" in name]


def test_every_space_has_its_own() -> None:
    found = _scores(PairModel(COLOURS), _rows([0, 1, 2, 3] * 3))
    assert {"geometry/image_tolerance", "geometry/text_tolerance"} <= found.keys()
