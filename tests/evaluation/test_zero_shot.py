"""Prompt ensembles against recorded values and against the definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from counterpoint.evaluation.zero_shot import (
    TEMPLATES,
    prompts,
    top_k_accuracy,
    zero_shot_classifier,
    zero_shot_scores,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "clip"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("zero_shot_classifier_*.npz")), ids=lambda path: path.stem)
def test_against_recorded_values(file: Path) -> None:
    with np.load(file, allow_pickle=False) as stored:
        values = {name: torch.from_numpy(stored[name]) for name in stored.files}
    classifier = zero_shot_classifier(values["prompt_features"])
    torch.testing.assert_close(classifier, values["out_classifier"], rtol=1e-6, atol=1e-9)
    logits = 100 * values["image_features"] @ classifier
    torch.testing.assert_close(logits, values["out_logits"], rtol=1e-6, atol=1e-9)
    found = top_k_accuracy(logits, values["labels"], at=(1, 3))
    assert found[1] == pytest.approx(float(values["out_top1"]), abs=1e-12)
    assert found[3] == pytest.approx(float(values["out_top3"]), abs=1e-12)


def test_every_prompt_has_one_voice_whatever_its_length() -> None:
    features = torch.randn(3, 4, 8, dtype=torch.float64)
    scaled = features * torch.rand(3, 4, 1, dtype=torch.float64) * 10 + 0
    torch.testing.assert_close(zero_shot_classifier(features), zero_shot_classifier(scaled))
    plain_mean = normalize(scaled.mean(1), dim=1).T
    assert not torch.allclose(zero_shot_classifier(scaled), plain_mean)


def test_classes_do_not_influence_each_other() -> None:
    features = torch.randn(5, 8, 16)
    whole = zero_shot_classifier(features)
    alone = torch.cat([zero_shot_classifier(features[place : place + 1]) for place in range(5)], dim=1)
    assert torch.equal(whole, alone)


def test_own_similarity_is_averaged_over_the_templates() -> None:
    images, texts = torch.randn(6, 4), torch.randn(3, 2, 4)
    found = zero_shot_scores(images, texts, score=lambda image, text: image @ text.T)
    expected = torch.stack([(images @ texts[place].T).mean(1) for place in range(3)], dim=1)
    torch.testing.assert_close(found, expected)


def test_prompts_stand_class_by_class() -> None:
    assert prompts(["cat", "dog"], ["a {}", "{}!"]) == ["a cat", "cat!", "a dog", "dog!"]
    assert len(TEMPLATES) == 8
    assert TEMPLATES[-1] == "{}"
    with pytest.raises(ValueError, match=r"template 'a photo' has no \{\}"):
        prompts(["cat"], ["a photo"])
    with pytest.raises(ValueError, match="class_names is empty"):
        prompts([])


def test_top_k_against_a_loop() -> None:
    scores, labels = torch.randn(50, 7), torch.randint(0, 7, (50,))
    for k, value in top_k_accuracy(scores, labels, at=(1, 3, 7)).items():
        right = [
            int(label) in sorted(range(7), key=lambda c: -float(row[c]))[:k]
            for row, label in zip(scores, labels, strict=True)
        ]
        assert value == pytest.approx(sum(right) / 50)
    with pytest.raises(ValueError, match="labels go up to 9, but scores has 7 classes"):
        top_k_accuracy(scores, torch.full((50,), 9))
