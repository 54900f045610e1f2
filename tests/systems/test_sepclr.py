"""SepCLR's objective against loops from the paper, its batches without one kind of row, and its two networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.data import open_rows, open_sources
from counterpoint.evaluation.embedding import embed_all
from counterpoint.systems.sepclr import BANDWIDTH, SepCLR
from counterpoint.training.terms import as_terms, combine
from counterpoint.views.image import TwoViews

PICTURES = TwoViews(size=32, scale=(0.7, 1.0), flip=0.0, grey=0.0, blur=0.0)
TARGET = torch.tensor([True, False, True, True, False])


def _system(**arguments: Any) -> SepCLR:
    settings = {"pictures": PICTURES, "common_dim": 4, "salient_dim": 3, "hidden": 8, **arguments}
    return SepCLR("test_resnet?size=32", **settings)


def _heads(rows: int = 5, *, seed: int = 0, common: int = 4, salient: int = 3) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        "common": torch.randn(rows, 2, common, dtype=torch.float64, generator=rng),
        "salient": 0.7 * torch.randn(rows, 2, salient, dtype=torch.float64, generator=rng),
        "target": TARGET[:rows],
        "attributes": torch.zeros(rows, 0),
    }


def _value(system: SepCLR, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    found = combine(as_terms(system.loss(features), system, len(features["target"])))
    return found.loss, {name: float(value) for name, value in found.parts.items()}


def _square(first: list[float], second: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))


def _slow_uniformity(rows: list[list[float]], tau: float) -> float:
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    return math.log(sum(math.exp(-_square(rows[i], rows[j]) / (2 * tau)) for i, j in pairs) / len(pairs))


def _slow_entropy(common: list[list[float]], salient: list[list[float]], tau: float) -> float:
    total = 0.0
    for c, s in zip(common, salient, strict=True):
        kernels = [
            math.exp(-_square(s, t) / (2 * tau)) * math.exp(-_square(c, d) / (2 * tau))
            for d, t in zip(common, salient, strict=True)
        ]
        total -= math.log(sum(kernels) / len(kernels))
    return total / len(common)


def _slow(features: dict[str, Tensor], tau: float) -> dict[str, float]:
    """Every term, unweighted; views 0 and 1."""
    target = features["target"].tolist()
    common = [normalize(features["common"][:, view], dim=1).tolist() for view in (0, 1)]
    salient = [features["salient"][:, view].tolist() for view in (0, 1)]
    taught = [[row if t else [0.0] * len(row) for row, t in zip(rows, target, strict=True)] for rows in salient]
    count, nothing = len(target), [0.0] * len(salient[0][0])
    ours = [i for i in range(count) if target[i]]
    others = [i for i in range(count) if not target[i]]

    def half(function: Any, *spaces: list[Any]) -> float:
        return sum(function(*(space[view] for space in spaces), tau) for view in (0, 1)) / 2

    return {
        "common_alignment": sum(_square(common[0][i], common[1][i]) for i in range(count)) / count / (2 * tau),
        "common_uniformity": half(_slow_uniformity, common),
        "salient_alignment": sum(_square(salient[0][i], salient[1][i]) for i in ours) / max(len(ours), 1) / (2 * tau),
        "salient_uniformity": half(_slow_uniformity, taught),
        "absence": sum(_square(nothing, salient[v][i]) for i in others for v in (0, 1))
        / max(len(others), 1)
        / (4 * tau),
        "joint_entropy": -half(_slow_entropy, common, taught),
    }


@pytest.mark.parametrize("tau", [0.5, 0.2])
@pytest.mark.parametrize("kinds", [[True, False, True, True, False], [False] * 5, [True] * 5])
def test_every_term_is_that_of_the_loops(kinds: list[bool], tau: float) -> None:
    """Also in a batch without target rows, or without background: their means are 0, not NaN."""
    system = _system(temperature=tau, salient_weight=3.0, absence_weight=5.0, joint_entropy_weight=7.0)
    features = {**_heads(), "target": torch.tensor(kinds)}
    loss, parts = _value(system, features)
    slow = _slow(features, tau)
    assert parts == pytest.approx(slow, abs=1e-12)
    whole = slow["common_alignment"] + 2 * slow["common_uniformity"] + 7 * slow["joint_entropy"]
    whole += 3 * (slow["salient_alignment"] + 2 * slow["salient_uniformity"]) + 5 * slow["absence"]
    assert float(loss) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("kinds", [[True, False, True, True, False], [False] * 5, [True] * 5])
def test_gradient_equals_finite_differences(kinds: list[bool]) -> None:
    system, features = _system(salient_weight=2.0, absence_weight=3.0), {**_heads(), "target": torch.tensor(kinds)}

    def loss(common: Tensor, salient: Tensor) -> Tensor:
        return _value(system, {**features, "common": common, "salient": salient})[0]

    leaves = [features[name].clone().requires_grad_() for name in ("common", "salient")]
    assert torch.autograd.gradcheck(loss, leaves)


def test_background_rows_meet_uniformity_and_entropy_as_the_point_zero() -> None:
    """Their own salient heads move the absence term alone; every target is pushed away from zero."""
    system, features = _system(absence_weight=0.0), _heads()
    salient = features["salient"].clone().requires_grad_()
    loss, _ = _value(system, {**features, "salient": salient})
    (gradient,) = torch.autograd.grad(loss, salient)
    assert float(gradient[~TARGET].abs().max()) == 0.0 and float(gradient[TARGET].abs().min()) > 0.0
    lone = {**_heads(2), "target": torch.tensor([True, False])}
    near, far = (_value(system, {**lone, "salient": scale * lone["salient"]})[1] for scale in (0.5, 2.0))
    assert far["salient_uniformity"] < near["salient_uniformity"] < 0, "away from 0, where the background is"


def test_views_and_order_do_not_matter() -> None:
    system, features = _system(), _heads()
    loss = float(_value(system, features)[0])
    swapped = {**features, "common": features["common"].flip(1), "salient": features["salient"].flip(1)}
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = {name: value[order] for name, value in features.items()}
    for other in (swapped, shuffled):
        assert float(_value(system, other)[0]) == pytest.approx(loss, rel=1e-12)


def test_known_attributes_are_followed_coordinate_by_coordinate() -> None:
    """The supervised variant in loops: pairs of target rows, one coordinate an attribute."""
    system = _system(continuous=("size", "turn"), discrete=("shape",), salient_weight=3.0, joint_entropy_weight=7.0)
    features = _heads()
    known = torch.tensor([[0.1, 2.0, 1], [9, 9, 9], [0.3, 2.1, 1], [0.9, 1.9, 0], [8, 8, 8]], dtype=torch.float64)
    features["attributes"] = known
    loss, parts = _value(system, features)
    tau, ours = 0.5, TARGET.nonzero()[:, 0].tolist()
    pairs = [(i, j) for i in ours for j in ours if j < i]
    followed, spread, absent = 0.0, 0.0, 0.0
    for view in (0, 1):
        for k in range(3):
            x, y = features["salient"][:, view, k].tolist(), known[:, k].tolist()
            near = [
                float(y[i] == y[j]) if k == 2 else math.exp(-((y[i] - y[j]) ** 2) / (2 * BANDWIDTH)) for i, j in pairs
            ]
            pulls = [weight * (x[i] - x[j]) ** 2 for weight, (i, j) in zip(near, pairs, strict=True)]
            followed += sum(pulls) / len(pairs) / 6
            spread += _slow_uniformity([[x[i] if TARGET[i] else 0.0] for i in range(5)], tau) / 6
            norms = [x[i] ** 2 for i in range(5) if not TARGET[i]]
            absent += sum(norms) / len(norms) / (2 * (tau if k == 2 else BANDWIDTH)) / 2 / 6
    slow = _slow(features, tau)
    wanted = {"attribute_alignment": followed, "salient_uniformity": spread, "absence": absent}
    wanted |= {name: slow[name] for name in ("common_alignment", "common_uniformity", "joint_entropy")}
    assert parts == pytest.approx(wanted, abs=1e-12)
    whole = slow["common_alignment"] + slow["common_uniformity"] + 7 * slow["joint_entropy"]
    assert float(loss) == pytest.approx(whole + 3 * (followed + spread + absent), abs=1e-12)
    nobody = {**features, "target": torch.zeros(5, dtype=torch.bool)}
    assert _value(system, nobody)[1]["attribute_alignment"] == 0.0


def test_both_spaces_see_the_same_pictures_with_weights_of_their_own() -> None:
    system, view = _system().train(), _system().views()
    rows = open_rows("digit-pairs:validation").select(range(6))
    batch = system.collate([view(row, np.random.default_rng(n)) for n, row in enumerate(rows)])
    assert batch["target"].tolist() == [row["source"] == "target" for row in rows]
    features = system.encode(batch)
    assert features["common"].shape == (6, 2, 4) and features["salient"].shape == (6, 2, 3)
    assert not torch.equal(features["common"][:, 0], features["common"][:, 1])
    _value(system, features)[0].backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in system.salient.linear.parameters())
    first, second = (next(space.encoder.parameters()) for space in (system.common, system.salient))
    assert not torch.equal(first, second), "two networks, not one"
    spaces = embed_all(system.eval(), rows)[1]
    assert {name: tuple(vectors.shape) for name, vectors in spaces.items()} == {"common": (6, 4), "salient": (6, 3)}


def test_two_data_sets_are_named_on_the_way_in() -> None:
    system = _system()
    rows = open_sources(["background=digit-pairs:test-background", "target=digit-pairs:test-target"])
    assert system.prepare(rows) == {"sources": ["background", "target"]}
    patients = open_sources(["healthy=digit-pairs:test-background", "patients=digit-pairs:test-target"])
    assert _system(target="patients").prepare(patients) == {"sources": ["healthy", "patients"]}
    with pytest.raises(ValueError, match="source must be 'target' in some rows .* found healthy, patients"):
        system.prepare(patients)


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="salient_dim must be the number of attributes, 2, got 3"):
        _system(continuous=("size",), discrete=("shape",))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        _system(temperature=0.0)
