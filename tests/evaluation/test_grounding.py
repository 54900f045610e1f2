"""Word-patch hits: on an encoder whose patches and words are set by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from counterpoint.data import open_rows
from counterpoint.data.builtin.scenes import GRID, OBJECTS
from counterpoint.evaluation import evaluate
from counterpoint.evaluation.protocols.grounding import find_word
from counterpoint.systems.filip import FILIP
from toy_models import ImageModel

TINY = "dual:test_vit+bert:1x32x2?dim=16&size=32&length=24"


def test_find_word() -> None:
    assert find_word([5, 7, 8, 9, 7], [7]) == [1]
    assert find_word([5, 7, 8, 9, 8], [8, 9]) == [2, 3]
    assert find_word([5, 7], [7, 8]) == []


def _planted(system: FILIP, rows: list[dict[str, object]], *, right: bool) -> None:
    """Every noun's vector is that of the patch on its box; or of the patch after it."""
    names = sorted({word for row in rows for word in row["words"]})  # type: ignore[attr-defined]
    vectors = {system.encoder.tokenize([name])["input_ids"][0, 1].item(): i for i, name in enumerate(names)}
    calls = iter(range(0, len(rows), 64))

    def image_tokens(images: Tensor) -> Tensor:
        start, patches = next(calls), torch.full((len(images), GRID**2, 16), 0.01)
        for number, row in enumerate(rows[start : start + len(images)]):
            for word, box in zip(row["words"], row["boxes"], strict=True):  # type: ignore[call-overload]
                place = round(box[1] * GRID) * GRID + round(box[0] * GRID)
                patches[number, place if right else (place + 1) % GRID**2, names.index(word)] = 1.0
        return patches

    def text_tokens(tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        words = torch.full((*tokens["input_ids"].shape, 16), 0.01)
        for token, place in vectors.items():
            words[tokens["input_ids"] == token, place] = 1.0
        return words, tokens["attention_mask"].bool()

    system.encoder.image_tokens = image_tokens  # type: ignore[method-assign]
    system.encoder.text_tokens = text_tokens  # type: ignore[method-assign]


@pytest.mark.parametrize("right", [True, False])
def test_words_hit_where_their_object_is(right: bool) -> None:
    rows = open_rows("scenes:test")[:100]
    system = FILIP(TINY)
    _planted(system, list(rows), right=right)
    found = evaluate(system, rows, protocols=["grounding"])
    rate, chance = found["scores"]["grounding/word_patch_hit_rate"], found["chance"]["grounding/word_patch_hit_rate"]
    assert chance == pytest.approx(1 / GRID**2, rel=1e-5)
    assert rate == 1.0 if right else rate < 0.2
    assert found["protocols"]["grounding"]["words"] == 100 * OBJECTS


def test_a_model_without_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="vectors for places and words"):
        evaluate(ImageModel(), open_rows("scenes:test")[:4], protocols=["grounding"])
