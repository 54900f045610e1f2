"""Queries by words, by vectors and by both, against what they should find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.evaluation.embedding import embed_all
from counterpoint.index import embed, search
from counterpoint.index import table as table_module
from toy_models import COLOURS, ImageModel, PairModel, TextModel, TokenModel, coloured, sentences


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PairModel]:
    model = PairModel(COLOURS)
    return embed(model, coloured(120), out=tmp_path_factory.mktemp("index") / "cards.lance"), model


def test_words_find_pictures(cards: tuple[Path, PairModel]) -> None:
    table, model = cards
    found = search(table, "blue", model=model, top=30)
    assert len(found) == 30
    assert {row["text"].split()[1] for row in found} == {"blue"}
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert set(found[0]) == {"id", "score", "text", "label", "source", "path", "thumbnail"}
    assert found[0]["thumbnail"][:4] == b"RIFF"


def test_scores_are_the_cosines_of_an_exact_search(cards: tuple[Path, PairModel]) -> None:
    table, model = cards
    ids, spaces = embed_all(model, coloured(120))
    _, query = embed_all(model, [{"id": "q", "text": "green card"}], columns=("text",))
    cosines = torch.cosine_similarity(query["text"], spaces["image"])
    expected = sorted(zip(cosines.tolist(), ids, strict=True), reverse=True)[:10]
    found = search(table, "green card", model=model)
    assert [row["score"] for row in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert {row["id"] for row in found[:5]} <= {identity for _, identity in expected}


def test_a_picture_finds_pictures(cards: tuple[Path, PairModel]) -> None:
    table, model = cards
    yellow = np.full((30, 40, 3), (250, 240, 10), dtype=np.uint8)
    found = search(table, image=yellow, model=model, top=20)
    assert {row["text"].split()[1] for row in found} == {"yellow"}


def test_the_space_of_the_rows_can_be_chosen(cards: tuple[Path, PairModel]) -> None:
    table, model = cards
    found = search(table, "red", model=model, space="text", top=30)
    assert {row["text"].split()[1] for row in found} == {"red"}
    assert found[0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_full_text_needs_no_model(cards: tuple[Path, PairModel]) -> None:
    table, _ = cards
    found = search(table, "number77", mode="text")
    assert [row["id"] for row in found] == ["p77"]
    assert found[0]["score"] > 0
    assert search(table, 'nothing "of (the kind', mode="text") == []
    assert len(search(table, "cards", mode="text", top=500)) == 120  # stemmed


def test_hybrid_brings_up_what_the_words_find(cards: tuple[Path, PairModel]) -> None:
    table, model = cards
    by_vector = [row["id"] for row in search(table, "blue number77", model=model, top=20)]
    assert "p77" not in by_vector  # it is green
    merged = [row["id"] for row in search(table, "blue number77", model=model, mode="hybrid", top=20)]
    assert "p77" in merged
    assert search(table, "number77", image=np.full((8, 8, 3), 9, np.uint8), model=model, mode="hybrid")


def test_hybrid_is_reciprocal_rank_fusion(cards: tuple[Path, PairModel]) -> None:
    table, model = cards
    rankings = [
        search(table, "green number77", model=model, top=100),
        search(table, "green number77", mode="text", top=100),
    ]
    merged: dict[str, float] = {}
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            merged[row["id"]] = merged.get(row["id"], 0.0) + 1 / (60 + rank)
    found = search(table, "green number77", model=model, mode="hybrid", top=10)
    assert [row["score"] for row in found] == pytest.approx(sorted(merged.values(), reverse=True)[:10])


def test_late_interaction_ranks_by_its_own_score(tmp_path: Path) -> None:
    model, rows = TokenModel(), sentences(150)
    table = embed(model, rows, out=tmp_path / "tokens.lance")
    query = "word7 word30 word100"
    found = search(table, query, model=model, top=10)
    ids, spaces = embed_all(model, rows)
    scores = model.score(embed_all(model, [{"id": "q", "text": query}])[1]["text"], spaces["text"])[0]
    best = scores.argsort(descending=True, stable=True)[:10]
    assert [row["score"] for row in found] == pytest.approx(scores[best].tolist(), abs=1e-5)
    assert found[0]["id"] == ids[int(best[0])]


def test_large_tables_get_an_index_and_still_find(tmp_path: Path) -> None:
    model, rows = TextModel(), sentences(600)
    table = embed(model, rows, out=tmp_path / "many.lance", index_above=500)
    found = table_module.open_table(table)
    assert found is not None
    assert {column for index in found[0].list_indices() for column in index.columns} == {"text", "vector"}
    hits = sum(search(table, row["text"], model=model, top=3)[0]["score"] > 0.999 for row in rows[:20])
    assert hits >= 18


def test_rows_added_later_are_found_by_words_and_vectors(tmp_path: Path) -> None:
    model, table = TextModel(), tmp_path / "t.lance"
    embed(model, sentences(50), out=table)
    embed(model, [*sentences(50), {"id": "late", "text": "zebra crossing"}], out=table)
    assert [row["id"] for row in search(table, "zebra", mode="text")] == ["late"]
    assert search(table, "zebra crossing", model=model, top=1)[0]["id"] == "late"


def test_errors_say_what_to_do(cards: tuple[Path, PairModel], tmp_path: Path) -> None:
    table, model = cards
    with pytest.raises(ValueError, match="nothing to search for"):
        search(table, model=model)
    with pytest.raises(ValueError, match="there is no table at .*nowhere.lance"):
        search(tmp_path / "nowhere", "x")
    with pytest.raises(ValueError, match="made by a PairModel built in memory: pass that system as model="):
        search(table, "x")
    with pytest.raises(ValueError, match="has other weights than the model that made cards.lance"):
        search(table, "x", model=PairModel())
    with pytest.raises(ValueError, match="the table has no space 'token'; it has image, text"):
        search(table, "x", model=model, space="token")
    with pytest.raises(ValueError, match="mode must be 'vector', 'text' or 'hybrid', got 'fuzzy'"):
        search(table, "x", mode="fuzzy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        search(table, "x", top=0)
    images = embed(ImageModel(), [{"id": r["id"], "image": r["image"]} for r in coloured(9)], out=tmp_path / "i")
    with pytest.raises(ValueError, match="the rows of i.lance have no text to look for words in"):
        search(images, "x", mode="text")


def test_a_query_that_the_model_cannot_embed(tmp_path: Path) -> None:
    model = ImageModel()
    images = embed(model, [{"id": row["id"], "image": row["image"]} for row in coloured(9)], out=tmp_path / "i")
    with pytest.raises(ValueError, match="cannot embed a query by text"):
        search(images, "a red door", model=model)
