"""The loss, its penalties and its limits against loops from the paper, and what is special in the system."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import Rows, open_rows
from counterpoint.geometry import tolerance, uniformity
from counterpoint.systems.contrastive_loss_behaviour import ContrastiveLossBehaviour
from counterpoint.views.image import TwoViews

VIEW = TwoViews(size=16, scale=(0.5, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.0, 0.0), grey=0.0, blur=0.0)


def _system(**arguments: object) -> ContrastiveLossBehaviour:
    torch.manual_seed(0)
    settings = {"view": VIEW, "hidden": 16, "dim": 6, **arguments}
    return ContrastiveLossBehaviour("test_resnet?size=16", **settings)  # type: ignore[arg-type]


def _rows(count: int, seed: int) -> Tensor:
    return normalize(torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 6))), dim=1)


def _slow_losses(
    anchors: Tensor, keys: Tensor, queue: Tensor, alpha: float, temperature: float
) -> tuple[float, float, int]:
    """Hard and hard simple loss of a batch, anchor by anchor on plain numbers, and the negatives of one anchor."""
    hard = simple = 0.0
    for i, anchor in enumerate(anchors):
        positive = sum(float(a) * float(b) for a, b in zip(anchor, keys[i], strict=True))
        others = [key for j, key in enumerate(keys) if j != i] + list(queue)
        found = sorted((sum(float(a) * float(b) for a, b in zip(anchor, o, strict=True)) for o in others), reverse=True)
        count = max(1, math.floor(alpha * len(found) + 0.5))
        kept = [s for s in found if s >= found[count - 1]]
        own = math.exp(positive / temperature)
        hard -= math.log(own / (own + sum(math.exp(s / temperature) for s in kept))) / len(anchors)
        simple += (sum(kept) / len(kept) - positive) / len(anchors)
    return hard, simple, len(others)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("queued", [0, 7])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_losses_equal_the_paper_in_loops(alpha: float, queued: int, temperature: float) -> None:
    first, second, queue = _rows(6, 1), _rows(6, 2), _rows(queued, 3)
    hard, simple, negatives = _slow_losses(first, second, queue, alpha, temperature)
    assert negatives == 5 + queued
    for objective, expected in (("contrastive", hard), ("simple", simple)):
        system = _system(objective=objective, alpha=alpha, temperature=temperature, queue=queued).double()
        if queued:
            system.after_step({"second": queue})
        found = system.loss({"first": first, "second": second})["contrast"]
        assert abs(float(found) - expected) < 1e-12


def test_both_sides_are_averaged() -> None:
    first, second = _rows(6, 1), _rows(6, 2)
    one, other = (_slow_losses(*sides, _rows(0, 0), 0.5, 0.3)[0] for sides in ((first, second), (second, first)))
    found = _system(symmetric=True, alpha=0.5, temperature=0.3).loss({"first": first, "second": second})
    assert abs(float(found["contrast"]) - (one + other) / 2) < 1e-12 and abs(one - other) > 1e-3


def test_a_batch_of_one_without_a_queue_has_nothing_to_push() -> None:
    row = {"first": _rows(1, 1), "second": _rows(1, 2)}
    assert float(_system(alpha=0.5).loss(row)["contrast"]) == 0.0
    expected = -float((row["first"] * row["second"]).sum())
    assert float(_system(objective="simple", alpha=0.5).loss(row)["contrast"]) == pytest.approx(expected)


def test_measures_see_the_projection_and_embed_does_not() -> None:
    system, rows = _system(), open_rows("digits:validation")[:30]
    pictures = torch.stack([system.preprocess()(row)["image"] for row in rows])
    with torch.no_grad():
        features = system.eval().embed({"image": pictures})
        projected = normalize(system.head(features), dim=1)
    assert features.shape == (30, system.encoder.dim) and projected.shape == (30, 6)
    labels = torch.tensor([row["label"] for row in rows])
    assert system.measure_uniformity(rows) == pytest.approx(float(uniformity(projected)), abs=1e-5)
    assert system.measure_tolerance(rows) == pytest.approx(float(tolerance(projected, labels)), abs=1e-5)
    assert system.measure_uniformity(Rows.from_list([dict(rows[0], id="a"), dict(rows[0], id="b")])) > -1e-5


def test_the_keys_come_from_the_slow_encoder_and_enter_the_queue_after_the_step() -> None:
    system = _system(queue=8, momentum=0.5).train()
    batch = {"first": torch.rand(4, 3, 16, 16), "second": torch.rand(4, 3, 16, 16)}
    features = system.encode(batch)
    assert features["first"].requires_grad and not features["second"].requires_grad
    torch.testing.assert_close(features["second"].norm(dim=1), torch.ones(4))
    system.loss(features)
    assert system.queue is not None and system.slow is not None and len(system.queue) == 0
    system.after_step(features)
    assert torch.equal(system.queue.rows(), features["second"])
    slow = next(system.slow.parameters())
    before, target = slow.clone(), next(system.encoder.parameters())
    target.data += 1.0
    system.before_step()
    torch.testing.assert_close(slow, 0.5 * before + 0.5 * target)
    assert system.guess_level(4) == pytest.approx(math.log(1 + 3 + 4))


def test_unusable_settings_are_refused() -> None:
    for arguments, word in (
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.5}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"symmetric": True, "queue": 8}, "queue"),
    ):
        with pytest.raises(ValueError, match=word):
            _system(**arguments)
