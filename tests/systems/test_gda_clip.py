from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.gaussians import class_means, gaussian_head, new_class, pooled_scatter
from counterpoint.systems.gda_clip import GDACLIP

D = 12


class World(NamedTuple):
    """Unit features of K classes with one shared, stretched covariance, and texts that are off by some noise."""

    features: Tensor
    labels: Tensor
    texts: Tensor


def _world(seed: int, per_class: int, classes: int = 4, text_noise: float = 1.2, part: int = 0) -> World:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, D, generator=generator, dtype=torch.float64)
    stretch = torch.randn(D, D, generator=generator, dtype=torch.float64) * 0.5
    texts = centres + text_noise * torch.randn(classes, D, generator=generator, dtype=torch.float64)
    draw = torch.Generator().manual_seed(1000 * seed + part)
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = torch.randn(len(labels), D, generator=draw, dtype=torch.float64) @ stretch
    return World(normalize(centres[labels] + noise, dim=1), labels, normalize(texts, dim=1))


def _accuracy(model: GDACLIP, world: World, **options: object) -> float:
    return float((model.predict_proba(world.features, **options).argmax(dim=1) == world.labels).double().mean())


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _world(1, 9)
    whole = GDACLIP(alpha=1.0).fit(world.features, world.labels, text_features=world.texts)
    monkeypatch.setattr("counterpoint.gaussians.ROWS_AT_ONCE", 5)
    parts = GDACLIP(alpha=1.0).fit(world.features, world.labels, text_features=world.texts)
    assert torch.allclose(whole.weight_, parts.weight_, rtol=1e-12)
    assert torch.allclose(whole.bias_, parts.bias_, rtol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_few_shot_beats_zero_shot(seed: int) -> None:
    train, test = _world(seed, 16), _world(seed, 100, part=1)
    zero = GDACLIP(alpha=0.0).fit(train.features, train.labels, text_features=train.texts)
    model = GDACLIP().fit(train.features, train.labels, text_features=train.texts)
    assert _accuracy(model, test) > _accuracy(zero, test) + 0.1


def test_the_ridge_beats_the_plain_inverse_where_the_covariance_has_no_full_rank() -> None:
    gains = []
    for seed in range(8):
        train, test = _world(seed, 3), _world(seed, 100, part=1)
        means = class_means(train.features, train.labels, 4)
        scatter = pooled_scatter(train.features, train.labels, means)
        weight, bias = gaussian_head(means, torch.linalg.pinv(scatter / 11, hermitian=True))
        plain = float(((test.features @ weight + bias).argmax(dim=1) == test.labels).double().mean())
        gains.append(_accuracy(GDACLIP().fit(train.features, train.labels), test) - plain)
    assert np.mean(gains) > 0.1


def test_validation_rows_choose_alpha_else_folds_do() -> None:
    train, held, test = _world(3, 8), _world(3, 40, part=1), _world(3, 100, part=2)
    model = GDACLIP().fit(
        train.features, train.labels, text_features=train.texts, validation=(held.features, held.labels)
    )
    logits = [(a, GDACLIP(alpha=a).fit(train.features, train.labels, text_features=train.texts)) for a in model.alphas]
    scores = [(_accuracy(found, held), -place, a) for place, (a, found) in enumerate(logits)]
    assert (model.validation_accuracy_, model.alpha_) == (pytest.approx(max(scores)[0]), max(scores)[2])
    folded = GDACLIP().fit(train.features, train.labels, text_features=train.texts)
    assert folded.alpha_ in model.alphas and folded.validation_accuracy_ is not None
    assert _accuracy(folded, test) > _accuracy(logits[0][1], test)


def test_copies_of_an_image_do_not_leak_into_the_folds() -> None:
    """Eight noisy copies of images with random labels: with leaking folds the head looks perfect."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 40, generator=generator, dtype=torch.float64)
    labels = torch.arange(24) % 4
    copies = images.repeat(8, 1) + 0.05 * torch.randn(192, 40, generator=generator, dtype=torch.float64)
    texts = torch.randn(4, 40, generator=generator, dtype=torch.float64)
    arguments = {"text_features": texts}
    leaking = GDACLIP().fit(copies, labels.repeat(8), **arguments)
    honest = GDACLIP().fit(copies, labels.repeat(8), groups=torch.arange(24).repeat(8), **arguments)
    assert leaking.validation_accuracy_ > 0.95
    assert honest.validation_accuracy_ < 0.6


def test_one_image_a_class_is_zero_shot_with_a_warning() -> None:
    world, test = _world(4, 1), _world(4, 20, part=1)
    with pytest.warns(UserWarning) as caught:
        model = GDACLIP().fit(world.features, world.labels, text_features=world.texts)
    texts = [str(warning.message) for warning in caught]
    assert any("zero-shot" in text for text in texts) and any("alpha is 1" in text for text in texts)
    assert model.alpha_ == 1.0
    wanted = (100 * test.features @ world.texts.T).softmax(dim=1)
    assert torch.allclose(model.predict_proba(test.features), wanted, atol=1e-12)


def test_unequal_numbers_of_images_have_equal_priors() -> None:
    many = _world(5, 40)
    kept = torch.cat([many.labels.eq(k).nonzero()[: (3, 40, 12, 5)[k], 0] for k in range(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = GDACLIP().fit(many.features[kept], many.labels[kept], text_features=many.texts)
    assert _accuracy(model, _world(5, 100, part=1)) > 0.8
    shift = model.bias_ + 0.5 * (model.means_.T * model.weight_).sum(dim=0)
    assert torch.allclose(shift, torch.full((4,), -np.log(4), dtype=torch.float64))


def test_classes_without_images_get_a_head_from_their_texts() -> None:
    full = _world(6, 16, classes=6, text_noise=0.3)
    test = _world(6, 100, classes=6, text_noise=0.3, part=1)
    base, new = (0, 2, 3, 5), (1, 4)
    kept = torch.isin(full.labels, torch.tensor(base))
    model = GDACLIP().fit(full.features[kept], full.labels[kept], text_features=full.texts)
    assert model.new_means_.shape == (2, D) and model.means_.shape == (4, D)
    for classes in (base, new):
        rows = torch.isin(test.labels, torch.tensor(classes))
        found = model.predict_proba(test.features[rows], classes=classes).argmax(dim=1)
        right = torch.tensor(classes)[found] == test.labels[rows]
        assert float(right.double().mean()) > 0.8
    mean, precision = new_class(full.features[kept], full.texts[1], neighbours=8, repeats=3)
    near = full.features[kept][(full.features[kept] @ full.texts[1]).argsort(descending=True)[:8]]
    assert torch.allclose(mean, (near.sum(dim=0) + 3 * full.texts[1]) / 11)
    centred = near - full.texts[1]
    spread = centred.T @ centred
    assert torch.allclose(
        precision, D * torch.linalg.inv(spread + spread.trace() / 7 * torch.eye(D, dtype=torch.float64))
    )


def test_fewer_rows_than_neighbours_are_enough() -> None:
    world = _world(6, 2)
    kept = world.labels < 3
    model = GDACLIP().fit(world.features[kept], world.labels[kept], text_features=world.texts)
    assert bool(model.predict_proba(world.features).isfinite().all())


@pytest.mark.parametrize("seed", range(8))
def test_em_recovers_classes_that_the_texts_only_hint_at(seed: int) -> None:
    world = _world(seed, 80)
    model = GDACLIP(mode="unsupervised", alpha=100.0, iterations=30).fit(world.features, text_features=world.texts)
    zero = float(((world.features @ world.texts.T).argmax(dim=1) == world.labels).double().mean())
    assert _accuracy(model, world) > zero + 0.02


def test_em_does_not_look_at_labels_and_stops_when_nothing_changes() -> None:
    world = _world(2, 30)
    first = GDACLIP(mode="unsupervised").fit(world.features, world.labels, text_features=world.texts)
    second = GDACLIP(mode="auto").fit(world.features, text_features=world.texts)
    assert torch.equal(first.weight_, second.weight_)
    sure = _world(2, 30, text_noise=0.0)
    settings = {"mode": "unsupervised", "alpha": 1e-6}
    one = GDACLIP(**settings, iterations=1).fit(sure.features, text_features=sure.texts)
    many = GDACLIP(**settings, iterations=50).fit(sure.features, text_features=sure.texts)
    assert torch.equal(one.weight_, many.weight_)


def test_state_survives_a_round_trip_and_input_scale_does_not_matter() -> None:
    world = _world(8, 5)
    model = GDACLIP().fit(world.features.float(), world.labels, text_features=world.texts.float())
    other = GDACLIP()
    other.load_state(*model.state())
    assert torch.equal(model.predict_proba(world.features), other.predict_proba(world.features))
    assert torch.allclose(model.predict_proba(world.features), model.predict_proba(7 * world.features), atol=1e-9)
    assert torch.allclose(model.predict_proba(world.features).sum(dim=1), torch.ones(20, dtype=torch.float64))


def test_unusable_input_is_explained() -> None:
    world = _world(9, 4)
    with pytest.raises(ValueError, match="needs labels"):
        GDACLIP(mode="few_shot").fit(world.features, text_features=world.texts)
    with pytest.raises(ValueError, match="text_features"):
        GDACLIP().fit(world.features)
    with pytest.raises(ValueError, match=r"classes \[4\] have no image"):
        more = torch.cat([world.texts, world.texts[:1]])
        GDACLIP(mode="few_shot").fit(world.features, world.labels, text_features=more)
    with pytest.raises(ValueError, match="row 0 is not finite"):
        GDACLIP().fit(world.features * float("nan"), world.labels, text_features=world.texts)
