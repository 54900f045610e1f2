"""The same row gives the same vector, whatever stands beside it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.data import Rows
from counterpoint.evaluation.embedding import Skipped, embed_all, embed_rows
from counterpoint.system import System
from toy_models import COLOURS, ImageModel, PairModel, TextModel, coloured, sentences


def _systems() -> list[tuple[System, list[dict[str, Any]]]]:
    images = [{"id": row["id"], "image": row["image"]} for row in coloured(500)]
    return [(ImageModel(), images), (TextModel(), sentences(500)), (PairModel(COLOURS), coloured(500))]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["image", "text", "pair"])
def test_vectors_do_not_depend_on_batch_size_or_order(which: int) -> None:
    system, rows = _systems()[which]
    ids, reference = embed_all(system, rows, batch=64)
    assert ids == [row["id"] for row in rows]
    order = np.random.default_rng(1).permutation(len(rows))
    for batch, shuffled in itertools.product((1, 2, 7, 32), (False, True)):
        chosen = [rows[place] for place in order] if shuffled else rows
        found_ids, found = embed_all(system, chosen, batch=batch)
        places = {identity: place for place, identity in enumerate(found_ids)}
        back = [places[identity] for identity in ids]
        for space, expected in reference.items():
            vectors = found[space][back]
            assert (vectors - expected).abs().max() <= 1e-6
            assert torch.equal(_nearest(vectors), _nearest(expected))


def _nearest(vectors: torch.Tensor) -> torch.Tensor:
    unit = normalize(vectors, dim=1)
    return (unit[:20] @ unit.T).topk(10, dim=1).indices


def test_padding_would_change_the_vector_without_the_promise() -> None:
    """The text model of these tests really is sensitive to its neighbours' length."""
    system, rows = TextModel().eval(), sentences(200)
    samples = [system.preprocess()(row) for row in rows]
    with torch.no_grad():
        alone = torch.cat([system.embed(system.collate([sample])) for sample in samples])
        together = system.embed(system.collate(samples))
    assert (alone - together).abs().max() > 0
    assert torch.allclose(alone, together, atol=1e-4)


@pytest.mark.parametrize("which", [0, 1], ids=["image", "text"])
def test_fast_vectors_point_the_same_way(which: int) -> None:
    system, rows = _systems()[which]
    ids, reference = embed_all(system, rows)
    fast_ids, fast = embed_all(system, rows, fast=True, batch=32)
    assert fast_ids == ids
    for space, expected in reference.items():
        assert fast[space].dtype == torch.float32
        assert not torch.equal(fast[space], expected)  # it did compute in bfloat16
        assert (normalize(fast[space], dim=1) * normalize(expected, dim=1)).sum(1).min() > 0.999


def test_long_samples_do_not_pile_up_to_be_sorted() -> None:
    """Clouds of 20,000 points are computed after 16 of them; texts wait for 2,048."""
    made: list[str] = []

    class Clouds(ImageModel):
        def preprocess(self) -> Any:
            return lambda row: made.append(row["id"]) or {"points": torch.zeros(20_000, 3)}

        def embed(self, batch: Any) -> torch.Tensor:
            return batch["points"].mean(1)

    ids, _ = next(embed_rows(Clouds(), [{"id": str(number)} for number in range(200)], batch=16, fast=True))
    assert len(ids) == 16
    assert len(made) < 64


def test_few_rows_are_computed_to_fill_a_batch_up() -> None:
    class Counts(TextModel):
        tokens = 0

        def embed(self, batch: Any) -> torch.Tensor:
            self.tokens += batch["ids"].numel()
            return super().embed(batch)

    system, rows = Counts(), sentences(2000)
    embed_all(system, rows, batch=2000)
    real = sum(system.collate([system.preprocess()(row)])["ids"].numel() for row in rows)
    assert real <= system.tokens < 1.2 * real


def test_batches_come_in_row_order_and_size() -> None:
    rows = sentences(150)
    sizes, ids = [], []
    for found, spaces in embed_rows(TextModel(), rows, batch=32):
        sizes.append(len(found))
        ids += found
        assert set(spaces) == {"embedding"}
        assert spaces["embedding"].shape == (len(found), 16)
        assert spaces["embedding"].dtype == torch.float32
    assert sizes == [32, 32, 32, 32, 22]
    assert ids == [row["id"] for row in rows]


@pytest.mark.parametrize("fast", [False, True])
def test_bad_rows_are_left_out_and_listed(fast: bool) -> None:
    rows = sentences(40)
    rows[3]["text"] = " "
    rows[39]["text"] = ""
    skipped: list[Skipped] = []
    ids, spaces = embed_all(TextModel(), rows, batch=8, fast=fast, skipped=skipped)
    assert skipped == [Skipped("t3", "the text is empty"), Skipped("t39", "the text is empty")]
    assert len(ids) == len(spaces["embedding"]) == 38


def test_a_vector_that_is_not_finite_is_left_out() -> None:
    class Breaks(ImageModel):
        def embed(self, batch: Any) -> torch.Tensor:
            vectors = super().embed(batch)
            return torch.where(batch["image"].mean((1, 2, 3))[:, None] < 0.01, torch.nan, vectors)

    rows = coloured(20)
    rows[5]["image"] = np.zeros((8, 8, 3), dtype=np.uint8)
    skipped: list[Skipped] = []
    ids, spaces = embed_all(Breaks(), rows, columns=("image",), skipped=skipped)
    assert [row.id for row in skipped] == ["p5"]
    assert "not finite" in skipped[0].reason
    assert spaces["embedding"].isfinite().all()
    assert "p5" not in ids


def test_only_bad_rows_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match=r"none of the 2 rows .*the text is empty"):
        embed_all(TextModel(), [{"id": "a", "text": ""}, {"id": "b", "text": " "}])


def test_missing_column_names_the_columns_found() -> None:
    with pytest.raises(ValueError, match=r"TextModel reads the column 'text', but the rows have caption, id"):
        embed_all(TextModel(), [{"id": "a", "caption": "x"}])


def test_workers_change_nothing() -> None:
    rows = Rows.from_list([{"text": row["text"]} for row in sentences(50)])
    system = TextModel()
    state = torch.get_rng_state()
    here, there = embed_all(system, rows), embed_all(system, rows, workers=2)
    assert here[0] == there[0] == [str(number) for number in range(50)]
    assert torch.equal(here[1]["embedding"], there[1]["embedding"])
    assert torch.equal(torch.get_rng_state(), state)


def test_training_mode_statistics_and_random_state_are_untouched() -> None:
    system = ImageModel().train()
    system.net[4].eval()  # a part that was frozen stays so
    statistics = system.net[1].running_mean.clone()
    state = torch.get_rng_state()
    embed_all(system, coloured(20), columns=("image",))
    assert system.training
    assert system.net[1].training
    assert not system.net[4].training
    assert torch.equal(system.net[1].running_mean, statistics)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_rows_with_different_spaces_come_in_separate_batches() -> None:
    rows = coloured(10)
    del rows[4]["text"]
    found = [(ids, set(spaces)) for ids, spaces in embed_rows(PairModel(), rows, batch=64)]
    assert [(len(ids), spaces) for ids, spaces in found] == [
        (4, {"image", "text"}),
        (1, {"image"}),
        (5, {"image", "text"}),
    ]
    with pytest.raises(ValueError, match=r"rows differ in what they can be embedded as: row 'p4'"):
        embed_all(PairModel(), rows)


def test_long_streams_are_cut_into_windows() -> None:
    rows = sentences(5000)
    system = TextModel()
    ids, spaces = embed_all(system, rows, batch=1000)
    assert ids == [row["id"] for row in rows]
    last = embed_all(system, rows[-3:])[1]["embedding"]
    assert (spaces["embedding"][-3:] - last).abs().max() <= 1e-6


def test_batch_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        next(embed_rows(TextModel(), sentences(2), batch=0))
