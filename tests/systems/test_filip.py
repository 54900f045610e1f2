"""FILIP against the definitions written as loops: scores, loss, token selection, prompts, padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import open_rows
from counterpoint.evaluation.embedding import embed_all
from counterpoint.evaluation.zero_shot import zero_shot_scores
from counterpoint.losses.late_interaction_variants import class_scores, select_tokens
from counterpoint.systems.filip import FILIP
from token_sets import random_tokens, real_words

TINY = "dual:test_vit+bert:1x32x2?dim=16&size=32&length=16"


def _system(**arguments: object) -> FILIP:
    return FILIP(TINY, **arguments)  # type: ignore[arg-type]


def _exact(temperature: float, **arguments: object) -> FILIP:
    """In float64, with a temperature that float32 has not rounded."""
    system = _system(**arguments).double()
    system.encoder.logit_scale.data.fill_(-math.log(temperature))
    return system


def _batch(system: FILIP, rows: int = 5) -> dict[str, Tensor]:
    data = open_rows("emoji:validation")[:rows]
    return system.collate([system.views()(row, np.random.default_rng(i)) for i, row in enumerate(data)])


def _slow_image_to_text(image: Tensor, words: list[Tensor]) -> float:
    return sum(max(float(patch @ word) for word in words) for patch in image) / len(image)


def _slow_text_to_image(image: Tensor, words: list[Tensor]) -> float:
    return sum(max(float(patch @ word) for patch in image) for word in words) / len(words)


def _slow_loss(image: Tensor, text: Tensor, mask: Tensor, temperature: float) -> float:
    n, total = len(image), 0.0
    words = [real_words(text[j], mask[j]) for j in range(n)]
    for i in range(n):
        of_image = [_slow_image_to_text(image[i], words[j]) / temperature for j in range(n)]
        of_text = [_slow_text_to_image(image[j], words[i]) / temperature for j in range(n)]
        for logits in (of_image, of_text):
            total -= (logits[i] - math.log(sum(map(math.exp, logits)))) / n / 2
    return total


@pytest.mark.parametrize("seed", range(20))
def test_loss_equals_its_definition(seed: int) -> None:
    system = _exact(0.1)
    image, text, mask = random_tokens(seed)
    found = float(system.loss({"image": image, "text": text * mask[..., None], "mask": mask})["contrast"])
    assert found == pytest.approx(_slow_loss(image, text, mask, 0.1), abs=1e-10)


def test_selected_tokens_make_the_loss() -> None:
    """Every row keeps a real word, and its loss is that of the kept tokens."""
    system = _exact(0.1, keep=0.5)
    for seed in range(10):
        image, text, mask = random_tokens(seed)
        choice = select_tokens(image, text, mask, ratio=0.5)
        assert choice.text_valid.any(dim=1).all()
        rows = range(len(image))
        kept = [
            torch.stack([tokens[i][index[i]] for i in rows])
            for tokens, index in (
                (image, choice.image_index),
                (text, choice.text_index),
            )
        ]
        expected = _slow_loss(*kept, choice.text_valid, 0.1)
        found = float(system.loss({"image": image, "text": text, "mask": mask})["contrast"])
        assert found == pytest.approx(expected, abs=1e-10)


def test_padding_never_counts() -> None:
    system = _system().eval()
    batch = _batch(system)
    features = system.encode(batch)
    assert features["text"].shape[1] == 16 and features["mask"].dtype == torch.bool
    assert float(features["text"][~features["mask"]].abs().max()) == 0.0
    other = {**features, "text": torch.where(features["mask"][..., None], features["text"], 7.0)}
    torch.testing.assert_close(system.loss(features)["contrast"], system.loss(other)["contrast"])
    longer = {name: torch.nn.functional.pad(batch[name], (0, 2)) for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(system.encode({**batch, **longer})["text"], features["text"], atol=1e-6, rtol=1e-5)


def test_captions_are_as_long_as_the_encoder_takes_them() -> None:
    system = _system()
    rows = [
        {**row, "text": text} for row, text in zip(open_rows("emoji:validation")[:2], ("a", "b " * 99), strict=True)
    ]
    batch = system.collate([system.views()(row, np.random.default_rng(0)) for row in rows])
    assert system.encode(batch)["text"].shape[1] == system.length == 16


@pytest.mark.parametrize("seed", range(10))
def test_score_is_the_mean_best_match_of_the_query(seed: int) -> None:
    system = _system()
    image, text, mask = random_tokens(seed)
    padded = text * mask[..., None]
    found, back = system.score(image, padded), system.score(padded, image)
    for i in range(len(image)):
        for j in range(len(text)):
            words = real_words(text[j], mask[j])
            assert float(found[i, j]) == pytest.approx(_slow_image_to_text(image[i], words), abs=1e-6)
            assert float(back[j, i]) == pytest.approx(_slow_text_to_image(image[i], words), abs=1e-6)


def test_score_of_single_vectors_is_the_cosine() -> None:
    first, second = torch.randn(3, 5), torch.randn(4, 5)
    expected = normalize(first, dim=1) @ normalize(second, dim=1).T
    torch.testing.assert_close(_system().score(first, second), expected)


def test_prompts_are_averaged_as_scores() -> None:
    system = _system().eval()
    names, templates = ["cat", "red apple"], ["a {}", "the photo of one {}"]
    images = torch.randn(3, 3, 32, 32)
    probabilities = system.classify(images, names, templates)
    with torch.no_grad():
        patches = normalize(system.encoder.image_tokens(images), dim=2)
        expected = torch.zeros(3, 2)
        for c, name in enumerate(names):
            for template in templates:
                words, mask = system.encoder.text_tokens(system.encoder.tokenize([template.replace("{}", name)]))
                words = real_words(normalize(words, dim=2)[0], mask[0])
                expected[:, c] += torch.tensor([_slow_image_to_text(image, words) for image in patches]) / 2
    torch.testing.assert_close(probabilities, (expected / 0.07).softmax(dim=1), rtol=1e-3, atol=1e-5)


def test_evaluation_scores_classes_as_the_system_does() -> None:
    """The protocols know only `score`; they must agree with `class_scores`."""
    system = _system()
    image, text, mask = random_tokens(3)
    prompts, prompt_mask = text[None].expand(2, *text.shape), mask[None].expand(2, *mask.shape)
    theirs = zero_shot_scores(image, prompts * prompt_mask[..., None], score=system.score)
    torch.testing.assert_close(theirs.double(), class_scores(image, prompts, prompt_mask), rtol=1e-5, atol=1e-6)


def test_embedding_gives_tokens_for_scores_and_a_mean_patch_for_probes() -> None:
    system = _system().eval()
    rows = open_rows("emoji:validation")[:3]
    _, spaces = embed_all(system, rows)
    assert spaces["image"].dim() == 3 and spaces["text"].dim() == 3 and spaces["embedding"].shape == (3, 16)
    batch = system.collate([system.preprocess()(rows[0])])
    torch.testing.assert_close(spaces["embedding"][:1], system.encoder.image_tokens(batch["image"]).mean(dim=1))


def test_temperature_starts_where_asked_and_stays_in_its_bounds() -> None:
    system = _system(temperature=0.2)
    assert float((-system.encoder.logit_scale).exp()) == pytest.approx(0.2)
    for value, clamped in ((9.0, 0.01), (-1.0, 1.0)):
        system.encoder.logit_scale.data.fill_(value)
        with torch.no_grad():
            system.after_step({})
        assert float((-system.encoder.logit_scale).exp()) == pytest.approx(clamped)


def test_no_weight_decay_on_embeddings_norms_biases_and_temperature() -> None:
    system = _system()
    decayed, plain = system.parameter_groups()
    names = {id(parameter): name for name, parameter in system.named_parameters()}
    spared = {names[id(parameter)] for parameter in plain["params"]}
    for part in ("pos_embed", "word_embeddings.weight", "position_embeddings.weight", "logit_scale", "cls_token"):
        assert any(part in name for name in spared), part
    kept = {names[id(parameter)] for parameter in decayed["params"]}
    assert any("patch_embed" in name for name in kept)
    assert spared | kept == set(names.values())


@pytest.mark.parametrize(("argument", "value"), [("keep", 0.0), ("keep", 1.5), ("temperature", 0.0)])
def test_bad_arguments_are_named(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        _system(**{argument: value})
