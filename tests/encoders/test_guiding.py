"""CLIP as a judge of edited pictures: resizing, stages, prompts in the place of words, the vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.guiding import (
    clip_pixels,
    prompt_embeddings,
    prompt_features,
    resized,
    stage_maps,
    text_tower,
    vocabulary,
)


@pytest.fixture(scope="module")
def vit() -> ClipEncoder:
    return ClipEncoder("fixture:vit", trainable="none").double()


@pytest.fixture(scope="module")
def resnet() -> ClipEncoder:
    return ClipEncoder("fixture:resnet", trainable="none").double()


def _pictures(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("height", "width", "size"), [(50, 37, 24), (20, 90, 64), (64, 64, 64)])
def test_resizing_is_torchs_with_its_gradient(height: int, width: int, size: int) -> None:
    ours, theirs = _pictures(height, width).requires_grad_(), _pictures(height, width).requires_grad_()
    weights = torch.randn(size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, wanted = resized(ours, size), interpolate(theirs, (size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(found, wanted)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_pixels_are_normalised(vit: ClipEncoder) -> None:
    grey = torch.full((1, 3, 9, 5), 0.5, dtype=torch.float64)
    found = clip_pixels(grey, vit)
    assert found.shape == (1, 3, vit.size, vit.size)
    for channel, (mean, std) in enumerate(zip(vit.mean, vit.std, strict=True)):
        assert float(found[0, channel, 3, 3]) == pytest.approx((0.5 - mean) / std, rel=1e-12)


def test_stages_end_in_the_image_features(resnet: ClipEncoder, vit: ClipEncoder) -> None:
    pixels = clip_pixels(_pictures(40, 40), resnet)
    maps = stage_maps(resnet, pixels)
    assert [found.shape[2] for found in maps] == [24, 24, 12, 6, 3]
    torch.testing.assert_close(resnet.towers.model.visual.attnpool(maps[-1]), resnet.encode_image(pixels))  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="'fixture:vit' has no stages: identity needs a CLIP with a ResNet"):
        stage_maps(vit, pixels)


def test_prompts_in_the_place_of_words_give_the_texts_features(vit: ClipEncoder) -> None:
    texts = ["a dark photo", "a red door and a blue house"]
    tokens = vit.tokenize(texts)
    embeddings = prompt_embeddings(vit, texts)
    for row, end in enumerate((tokens["attention_mask"].sum(dim=1) - 1).tolist()):
        found = prompt_features(text_tower(vit), embeddings[row : row + 1], end)
        torch.testing.assert_close(found[0], vit.encode_text(tokens)[row])


def test_what_follows_the_end_of_a_prompt_says_nothing(vit: ClipEncoder) -> None:
    prompts = prompt_embeddings(vit, ["X X X"] * 2).requires_grad_()
    prompt_features(text_tower(vit), prompts, 4).sum().backward()
    assert prompts.grad is not None
    assert bool(prompts.grad[:, :5].abs().amax(dim=2).gt(0).all()) and not bool(prompts.grad[:, 5:].any())


def test_the_vocabulary_holds_words_once(vit: ClipEncoder) -> None:
    words = vocabulary(vit)
    assert len(set(words)) == len(words) > 5000
    assert {"dark", "light"} <= set(words)
    assert not any("start_of_text" in word or "end_of_text" in word for word in words)


def test_other_towers_are_named() -> None:
    other = ClipEncoder("dual:test_vit+bert:1x32x2?dim=16&size=32")
    for refused in (lambda: text_tower(other), lambda: vocabulary(other)):
        with pytest.raises(ValueError, match="original t"):
            refused()
