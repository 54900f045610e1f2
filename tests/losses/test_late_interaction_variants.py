"""Selection of tokens against loops."""

from __future__ import annotations

import math

import pytest
import torch

from counterpoint.losses.late_interaction import late_interaction_similarity
from counterpoint.losses.late_interaction_variants import select_tokens
from token_sets import random_tokens, real_words


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_selection_keeps_what_is_nearest_to_the_other_side(seed: int, ratio: float) -> None:
    image, text, mask = random_tokens(seed)
    choice = select_tokens(image, text, mask, ratio=ratio)
    words = [word for j in range(len(text)) for word in real_words(text[j], mask[j])]
    for i in range(len(image)):
        weight = [max(float(patch @ word) for word in words) for patch in image[i]]
        count = max(1, int(len(weight) * ratio))
        torch.testing.assert_close(choice.image_weight[i], torch.tensor(weight, dtype=torch.float64))
        assert choice.image_index[i].tolist() == sorted(range(len(weight)), key=lambda k: -weight[k])[:count]
        of_words = [
            max(float(word @ patch) for patch in image.flatten(0, 1)) if real else -math.inf
            for word, real in zip(text[i], mask[i], strict=True)
        ]
        count = max(1, int(len(of_words) * ratio))
        kept = sorted(range(len(of_words)), key=lambda r: -of_words[r])[:count]
        assert choice.text_index[i].tolist() == kept
        assert choice.text_valid[i].tolist() == [bool(mask[i, r]) for r in kept]


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_of_equal_matches_only_the_first_has_a_gradient(tokens: int) -> None:
    image = torch.ones(3, tokens, 4, requires_grad=True)
    text = torch.ones(3, tokens, 4, requires_grad=True)
    of_image, _ = late_interaction_similarity(image, text)
    (gradient,) = torch.autograd.grad(of_image.sum(), text)
    torch.testing.assert_close(gradient[:, 0], torch.full((3, 4), 3.0))  # a mean over tokens of each of 3 images
    assert not bool(gradient[:, 1:].any())
