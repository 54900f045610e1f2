from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize, one_hot

from counterpoint.systems.tip_adapter import TipAdapter, cache_logits


def _data(rows: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(7), dtype=torch.float64), dim=1)
    labels = torch.arange(rows) % 3
    features = centres[labels] + 0.3 * torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    texts = centres + 0.6 * torch.randn(3, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return normalize(features, dim=1), labels, normalize(texts, dim=1)


def test_the_cache_is_the_written_out_sum() -> None:
    features, labels, _ = _data(9)
    queries, _, _ = _data(4, seed=1)
    found = cache_logits(queries, features, one_hot(labels, 3).double(), beta=5.5)
    for i, query in enumerate(queries):
        for k in range(3):
            near = [float(query @ x) for x, y in zip(features, labels, strict=True) if y == k]
            assert float(found[i, k]) == pytest.approx(sum(math.exp(-5.5 * (1 - s)) for s in near), rel=1e-10)


def test_logits_add_the_cache_to_zero_shot() -> None:
    features, labels, texts = _data()
    model = TipAdapter(alpha=2.0, beta=3.0).fit(features, labels, text_features=texts)
    queries, _, _ = _data(5, seed=1)
    cached = cache_logits(queries, features, one_hot(labels, 3).double(), beta=3.0)
    assert torch.allclose(model.logits(queries), 100 * queries @ texts.T + 2 * cached)


def test_weights_are_chosen_on_validation_rows_or_in_folds() -> None:
    features, labels, texts = _data()
    held, test = _data(60, seed=1), _data(300, seed=2)
    zero = float(((test[0] @ texts.T).argmax(dim=1) == test[1]).double().mean())
    for options in ({"validation": held[:2]}, {}):
        model = TipAdapter().fit(features, labels, text_features=texts, **options)
        assert model.alpha_ in model.alphas and model.beta_ in model.betas
        found = float((model.predict(test[0]) == test[1]).double().mean())
        assert found > zero + 0.05
    one = TipAdapter(alpha=1.0).fit(features, labels, text_features=texts)
    assert one.alpha_ == 1.0


def test_one_image_a_class_keeps_the_given_weights() -> None:
    features, labels, texts = _data(3)
    with pytest.warns(UserWarning, match="not chosen"):
        model = TipAdapter().fit(features, labels, text_features=texts)
    assert (model.alpha_, model.beta_, model.validation_accuracy_) == (1.0, 5.5, None)


def test_unusable_input_is_explained() -> None:
    features, labels, texts = _data()
    with pytest.raises(ValueError, match="needs labels"):
        TipAdapter().fit(features, text_features=texts)
    with pytest.raises(ValueError, match=r"lie in 0\.\.1"):
        TipAdapter().fit(features, labels, text_features=texts[:2])


def test_state_survives_a_round_trip() -> None:
    features, labels, texts = _data()
    model, other = TipAdapter().fit(features, labels, text_features=texts), TipAdapter()
    other.load_state(*model.state())
    assert torch.equal(model.predict_proba(features), other.predict_proba(features))
