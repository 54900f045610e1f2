"""BECLR against a step written as loops from the paper, its masks, its warm-up and its teacher."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.data import open_rows
from counterpoint.losses.attraction_repulsion import negative_loss
from counterpoint.system import Features
from counterpoint.systems.beclr import BECLR
from counterpoint.views.masked import MaskedViews

PICTURES = MaskedViews(size=32, patch=8, flip=0.0, blur=0.0)
KINDS = ("target", "prediction", "projection")


def _system(**arguments: object) -> BECLR:
    settings = {"dim": 6, "hidden": 4, "neighbours": 2, "starts": 0, "memory": 17, "clusters": 3, "recluster": 5}
    return BECLR("test_resnet?size=32", PICTURES, **{**settings, **arguments}).double()  # type: ignore[arg-type]


def _features(rows: int, seed: int) -> Features:
    drawn = torch.randn(3, rows, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return dict(zip(KINDS, drawn, strict=True))


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second) / math.sqrt(float(first @ first) * float(second @ second))


def _slow_terms(views: dict[str, list[list[Tensor]]], temperature: float) -> tuple[float, float]:
    """`views[kind][view]` are the rows of a view: mean of both directions, and the log of the mean potential."""
    n = len(views["prediction"][0])
    positive = -sum(_cosine(views["prediction"][v][i], views["target"][1 - v][i]) for v in (0, 1) for i in range(n)) / (
        2 * n
    )
    z = views["projection"][0] + views["projection"][1]
    potentials = []
    for r in range(2 * n):
        total = sum(math.exp(0 if r % n == c % n else _cosine(z[r], z[c]) / temperature) for c in range(2 * n))
        potentials.append((total - 2) / (2 * n - 2))
    return positive, math.log(sum(potentials) / (2 * n))


def _values(system: BECLR, features: Features) -> tuple[float, float]:
    terms = system.loss(dict(features))
    return float(terms["positive"]), float(terms["negative"].total)


def test_two_views_alone_are_the_paper_in_loops() -> None:
    system, features = _system(neighbours=0), _features(4, 0)
    rows = {kind: [list(value[:, view]) for view in (0, 1)] for kind, value in features.items()}
    assert _values(system, features) == pytest.approx(_slow_terms(rows, 2.0), abs=1e-12)
    assert system.loss(features)["negative"].weight == 0.1


def test_an_enhanced_step_is_the_paper_in_loops() -> None:
    """Every row brings its nearest entries of the memory of its kind, which already holds the row."""
    system = _system()
    for step in range(3):
        system.after_step(_features(4, step))
    assert all(memory.clustered for memory in system.memories.values())
    features, rows = _features(4, 7), {}
    for kind, value in features.items():
        memory = copy.deepcopy(system.memories[kind])
        memory.push(torch.cat([value[:, 0], value[:, 1]]))
        rows[kind] = [list(value[:, 0]), list(value[:, 1])]
        for view in (0, 1):
            for row in list(rows[kind][view]):
                nearest = max(range(3), key=lambda k, row=row: _cosine(row, memory.prototypes[k]))
                members = [place for place in range(17) if int(memory.labels[place]) == nearest]
                members = members if len(members) > 2 else list(range(17))
                found = sorted(members, key=lambda place, row=row: -_cosine(row, memory.bank[place]))[:2]
                rows[kind][view] += [memory.bank[place] for place in found]
    before = copy.deepcopy(system.state_dict())
    assert _values(system, features) == pytest.approx(_slow_terms(rows, 2.0), abs=1e-12)
    for name, value in system.state_dict().items():
        assert torch.equal(value, before[name]), "the loss leaves the memories alone"


def test_neighbours_join_late_and_only_from_full_memories() -> None:
    system, features = _system(starts=4), _features(4, 7)
    plain = _values(_system(neighbours=0), features)
    system.clock.epoch = 4
    assert _values(system, features) == plain, "empty memories"
    for step in range(3):
        system.after_step(_features(4, step))
    system.clock.epoch = 3
    assert _values(system, features) == plain, "before their epoch"
    system.clock.epoch = 4
    assert _values(system, features) != plain


def test_neighbours_are_constants_and_dilute_the_positives() -> None:
    """The gradient of the positive term is that of plain two-view learning over 1 + k."""
    system, features = _system(), _features(4, 7)
    for step in range(3):
        system.after_step(_features(4, step))
    gradients = []
    for model in (system, _system(neighbours=0)):
        prediction = features["prediction"].clone().requires_grad_()
        model.loss({**features, "prediction": prediction})["positive"].backward()
        gradients.append(prediction.grad)
    torch.testing.assert_close(gradients[0] * 3, gradients[1])


@pytest.mark.parametrize(("pairs", "kinds"), [("SS", ("projection",) * 2), ("ST", ("projection", "target"))])
def test_which_projections_repel(pairs: str, kinds: tuple[str, str]) -> None:
    features = _features(4, 0)
    rows = torch.cat([features[kind][:, view] for view, kind in enumerate(kinds)])
    found = _system(neighbours=0, pairs=pairs).loss(features)["negative"].total
    torch.testing.assert_close(found, negative_loss(rows, temperature=2.0))


def test_a_memory_of_negatives_counts_what_is_left() -> None:
    system, features = _system(threshold=0.2), _features(4, 7)
    plain = float(system.loss(features)["negative"].total)
    for step in range(3):
        system.after_step(_features(4, step))
    assert float(system.loss(features)["negative"].total) < plain - 1, "divided by the entries of the whole matrix"


def test_new_clusters_come_with_their_epoch_once() -> None:
    system = _system()
    for step in range(3):
        system.after_step(_features(4, step))
    memory = system.memories["prediction"]
    kept = memory.labels.clone()
    for epoch, changed in ((4, False), (5, True), (6, False)):
        memory.labels.zero_()
        system.clock.epoch = epoch
        system.before_step()
        assert bool(memory.labels.any()) == changed
    assert kept.any() and int(system.period) == 1


def test_the_teacher_rises_to_standing_still() -> None:
    system = _system(neighbours=0, momentum=0.9)
    for progress, rate in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        system.clock.progress = progress
        before = system.teacher.module[1][0].weight.clone()
        with torch.no_grad():
            system.projector[0].weight.add_(1.0)
        system.after_step({})
        wanted = rate * before + (1 - rate) * system.projector[0].weight.detach()
        torch.testing.assert_close(system.teacher.module[1][0].weight, wanted)


def test_only_the_student_sees_masks() -> None:
    row = open_rows("digits:train")[0]
    system = _system(neighbours=0).train()
    batch = system.collate([PICTURES(row, np.random.default_rng(i)) for i in range(4)])
    batch = {name: value.double() for name, value in batch.items()}
    whole, blind = (
        system.encode({**batch, "first_seen": torch.full_like(batch["first_seen"], fill)}) for fill in (1.0, 0.0)
    )
    torch.testing.assert_close(whole["target"], blind["target"])
    assert not torch.allclose(whole["projection"][:, 0], blind["projection"][:, 0])
    dark = {**batch, "first": batch["first"].clone(), "first_seen": torch.ones_like(batch["first_seen"])}
    dark["first"][:, :, 8:16, 24:] = 0
    hidden = torch.ones_like(batch["first_seen"])
    hidden[:, :, 1, 3] = 0
    torch.testing.assert_close(
        system.encode(dark)["projection"], system.encode({**batch, "first_seen": hidden})["projection"]
    )


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="neighbours=0 has none"):
        _system(neighbours=0, threshold=0.5)
