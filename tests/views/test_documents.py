from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from transformers import AutoTokenizer

from counterpoint.data.errors import BadRow
from counterpoint.encoders.text import TextEncoder
from counterpoint.views.documents import CropPair, Crops, Labelled, LabelledPair, choose_negatives

WORDS = "the quick brown fox jumps over a lazy dog while many small birds sing in old green trees near our house"


@pytest.fixture(scope="module")
def tokenizer() -> AutoTokenizer:
    return TextEncoder("bert:1x8x1").tokenizer


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_two_crops_come_from_one_chunk_and_carry_special_tokens(tokenizer: AutoTokenizer) -> None:
    view = CropPair(tokenizer, 64, Crops(chunk=8, ratio=(0.3, 0.6), augmentation="none"))
    whole = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    different = 0
    for seed in range(50):
        sample = view({"id": "a", "text": WORDS}, _rng(seed))
        places = []
        for name in ("query", "key"):
            ids = sample[name].tolist()
            assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
            inner = ids[1:-1]
            assert 2 <= len(inner) <= 4
            starts = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
            assert len(starts) == 1
            places += [starts[0], starts[0] + len(inner)]
        assert max(places) - min(places) <= 8
        different += sample["query"].tolist() != sample["key"].tolist()
    assert different > 40


def test_the_cloze_leaves_the_rest(tokenizer: AutoTokenizer) -> None:
    whole = tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    for keep, size in ((0.0, 0), (1.0, 1)):
        view = CropPair(tokenizer, 64, Crops(pair="cloze", augmentation="none", keep=keep))
        sample = view({"id": "a", "text": WORDS}, _rng())
        query, key = sample["query"].tolist()[1:-1], sample["key"].tolist()[1:-1]
        assert len(key) == len(whole) - (1 - size) * len(query)
        assert Counter(query) + Counter(key) == Counter(whole) + (Counter(query) if keep else Counter())


@pytest.mark.parametrize("augmentation", ["delete", "mask", "replace", "shuffle"])
def test_every_augmentation_changes_tokens(tokenizer: AutoTokenizer, augmentation: str) -> None:
    row = {"id": "a", "text": WORDS}
    settings = {"ratio": (0.99, 1.0), "probability": 0.5}
    plain = CropPair(tokenizer, 64, Crops(**settings, augmentation="none"))(row, _rng())["query"]
    found = CropPair(tokenizer, 64, Crops(**settings, augmentation=augmentation))(row, _rng())["query"]
    assert found.tolist() != plain.tolist()
    assert len(found) < len(plain) if augmentation == "delete" else len(found) == len(plain)


def test_a_text_of_one_token_is_a_bad_row(tokenizer: AutoTokenizer) -> None:
    with pytest.raises(BadRow, match="fewer than two tokens"):
        CropPair(tokenizer, 64, Crops())({"id": "a", "text": "fox"}, _rng())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": (0.5, 0.1)}, "crops.ratio"),
        ({"ratio": (0.0, 0.1)}, "crops.ratio"),
        ({"chunk": 1}, "crops.chunk"),
        ({"probability": 1.5}, "crops.probability"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Crops(**settings)  # type: ignore[arg-type]


RANDOM, HARD = [f"r{i}" for i in range(20)], [f"h{i}" for i in range(10)]


@pytest.mark.parametrize(("ratio", "hard"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_hard_negatives_come_in_the_share_asked_for(ratio: float, hard: int) -> None:
    settings = Labelled(negatives=4, hard_ratio=ratio, hard_from=3)
    seen: set[str] = set()
    for seed in range(200):
        found = choose_negatives(_rng(seed), RANDOM, HARD, settings)
        assert len(set(found)) == 4
        assert sum(text.startswith("h") for text in found) == hard
        seen |= set(found)
    wanted = (set(HARD[3:]) if hard else set()) | (set(RANDOM) if hard < 4 else set())
    assert seen == wanted  # every one may be drawn, none before rank 3


def test_a_short_list_is_filled_from_the_other() -> None:
    settings = Labelled(negatives=4, hard_ratio=0.5)
    assert sorted(choose_negatives(_rng(), RANDOM, ["h"], settings))[0] == "h"
    found = choose_negatives(_rng(), ["r"], HARD, settings)
    assert len(set(found)) == 4 and "r" in found
    assert sorted(choose_negatives(_rng(), ["r"], ["h"], settings)) == ["h", "h", "r", "r"]
    with pytest.raises(BadRow, match="labelled.negatives to 0"):
        choose_negatives(_rng(), [], [], settings)


def test_labelled_rows_take_texts_or_lists(tokenizer: AutoTokenizer) -> None:
    view = LabelledPair(tokenizer, 64, Labelled(negatives=2, hard_ratio=0.5))
    row = {"id": "a", "query": "fox", "positive": "the fox", "negative": "dog", "hard_negative": ["green fox", "a"]}
    sample = view(row, _rng())
    assert tokenizer.decode(sample["key"], skip_special_tokens=True) == "the fox"
    texts = {tokenizer.decode(ids, skip_special_tokens=True) for ids in sample["negatives"]}
    assert "dog" in texts and texts & {"green fox", "a"}
    assert "negatives" not in LabelledPair(tokenizer, 64, Labelled(negatives=0))(row, _rng())
    with pytest.raises(BadRow, match="'positive'"):
        view({**row, "positive": []}, _rng())


def test_cleaning_is_off_unless_asked_for(tokenizer: AutoTokenizer) -> None:
    row = {"id": "a", "query": "it\u2019s", "positive": "x"}
    plain, clean = (LabelledPair(tokenizer, 64, Labelled(negatives=0, clean=c))(row, _rng()) for c in (False, True))
    assert tokenizer.convert_ids_to_tokens(plain["query"].tolist())[2] == "\u2019"
    assert tokenizer.convert_ids_to_tokens(clean["query"].tolist())[2] == "'"
