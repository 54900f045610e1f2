"""FAC: what meets what in its two contrasts, whichever way a scene was cut, and its variants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from counterpoint.losses import foreground_contrast, geometric_contrast
from counterpoint.losses.segment_contrast import segment_means
from counterpoint.systems.fac import FAC
from counterpoint.views.points import PointViews
from counterpoint.views.supervoxels import Supervoxels

VIEW = PointViews(least=100, points=600, picks=48, supervoxels=Supervoxels(cache=False))
ENCODER = "voxel4?range=12,-2.5,3&cell=1&levels=2"


def _row(seed: int = 0, things: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-11, 11, (700, 2)), rng.normal(-1.8, 0.02, 700)])
    wall = np.column_stack([rng.uniform(-11, 11, 500), np.full(500, 9.0), rng.uniform(-1.5, 2.5, 500)])
    middles = rng.permutation([[x, y, -0.7] for x in (-8, -2.5, 3, 8) for y in (-7, 0, 5)])[:things]
    boxes = [rng.uniform(-0.5, 0.5, (80, 3)) * [2.0, 1.2, 1.4] + middle for middle in middles]
    return {"id": str(seed), "points": np.concatenate([ground, wall, *boxes]).astype(np.float32)}


def _system(**arguments: Any) -> FAC:
    torch.manual_seed(0)
    settings = {"encoder": ENCODER, "view": VIEW, "hidden": 8, "dim": 6, "segment_dim": 5, "hardest": 3}
    return FAC(**{**settings, **arguments}).double()


def _batch(system: FAC, rows: int = 3) -> dict[str, Any]:
    view = system.views()
    batch = system.collate([view(_row(seed), np.random.default_rng(seed)) for seed in range(rows)])
    for name in ("first", "second"):
        batch[name] = {
            key: value.double() if value.is_floating_point() else value for key, value in batch[name].items()
        }
    return batch


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.detach(), b.detach(), dim=0))


def test_both_contrasts_against_loops_over_points_and_segments() -> None:
    system = _system().train()
    features = system.encode(_batch(system))
    terms = system.loss(features)
    for view, other in (("first", "second"), ("second", "first")):
        geometry, anchors, segments_total, segments = 0.0, 0, 0.0, 0
        for b in range(3):
            own, theirs = features[f"{view}_group"][b].tolist(), features[f"{other}_group"][b].tolist()
            asked = features[f"{view}_asked"][b].tolist()
            ours, yours = features[f"{view}_points"][b], features[f"{other}_points"][b]
            for a, segment in enumerate(own):
                positives = [n for n, s in enumerate(theirs) if s == segment]
                if not asked[a] or not positives:
                    continue
                scores = {n: _cosine(ours[a], yours[n]) / 0.1 for n, s in enumerate(theirs) if s >= 0}
                level = math.log(sum(math.exp(score) for score in scores.values()))
                geometry += level - sum(scores[n] for n in positives) / len(positives)
                anchors += 1
            kinds = {s: asked[a] for a, s in enumerate(own) if s >= 0 and s in theirs}
            mean = {
                name: {s: torch.stack([part[n] for n, t in enumerate(groups) if t == s]).mean(dim=0) for s in kinds}
                for name, part, groups in (
                    ("ours", features[f"{view}_parts"][b], own),
                    ("yours", features[f"{other}_parts"][b], theirs),
                )
            }
            for s, is_thing in kinds.items():
                if not is_thing:
                    continue
                negatives = sorted(
                    (_cosine(mean["ours"][s], mean["yours"][t]) for t in kinds if not kinds[t]), reverse=True
                )[:3]
                scores_of = [_cosine(mean["ours"][s], mean["yours"][s]), *negatives]
                segments_total += math.log(sum(math.exp(10 * (score - scores_of[0])) for score in scores_of))
                segments += 1
        found = terms[f"geometry_{view}"]
        assert int(found.count) == anchors > 10  # type: ignore[union-attr]
        assert found.total.item() == pytest.approx(geometry, rel=1e-9)  # type: ignore[union-attr]
        found = terms[f"foreground_{view}"]
        assert int(found.count) == segments > 3  # type: ignore[union-attr]
        assert found.total.item() == pytest.approx(segments_total, rel=1e-9)  # type: ignore[union-attr]


def test_other_foreground_segments_are_no_negatives_of_segments() -> None:
    segments = torch.randn(1, 4, 5, dtype=torch.float64)
    kinds = torch.tensor([[1, 1, 0, 0]])
    before = foreground_contrast(segments, segments, kinds, hardest=2, temperature=0.5)[0]
    moved = segments.clone()
    moved[0, 1] = torch.randn(5)
    only_first = torch.tensor([[1, -1, 0, 0]])
    same = [foreground_contrast(s, s, only_first, hardest=2, temperature=0.5)[0] for s in (segments, moved)]
    assert float(same[0]) == float(same[1])
    with_second = foreground_contrast(moved, moved, kinds, hardest=2, temperature=0.5)[0] - same[1]
    assert float(before) != float(with_second + same[1])


def test_scenes_never_meet_and_missing_parts_teach_nothing() -> None:
    query = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 6, 4, dtype=torch.float64)
    segments = torch.tensor([[0, 0, 1, 1, 2, -1], [0, 0, 1, 1, 2, -1]])
    anchors = torch.ones(2, 6, dtype=torch.bool)
    whole = geometric_contrast(query, key, segments, segments, anchors, temperature=0.3)
    parts = [
        geometric_contrast(query[n : n + 1], key[n : n + 1], *[segments[n : n + 1]] * 2, anchors[:1], temperature=0.3)
        for n in range(2)
    ]
    assert whole[0].item() == pytest.approx(sum(part[0].item() for part in parts))
    assert int(whole[1]) == 10
    nothing = geometric_contrast(query, key, segments, segments + 10, anchors, temperature=0.3)
    nothing[0].backward()
    assert float(nothing[0]) == 0 and int(nothing[1]) == 0
    assert query.grad is not None and not query.grad.any()
    nothing = foreground_contrast(query, key, torch.ones(2, 6, dtype=torch.long), hardest=2, temperature=0.3)
    assert float(nothing[0]) == 0 and int(nothing[1]) == 0, "without background"
    spoilt = key.clone()
    spoilt[:, 5] = torch.nan
    with pytest.raises(ValueError, match="anchors must be a mask"):
        geometric_contrast(query, key, segments, segments, anchors.long(), temperature=0.3)
    again = geometric_contrast(query, spoilt, segments, segments, anchors, temperature=0.3)
    assert again[0].item() == pytest.approx(whole[0].item()), "what has no segment may hold anything"


def test_means_of_segments() -> None:
    points = torch.arange(12, dtype=torch.float64).reshape(2, 3, 2)
    means, counts = segment_means(points, torch.tensor([[1, 1, -1], [0, 2, 2]]), 3)
    assert counts.tolist() == [[0, 2, 0], [1, 0, 2]]
    assert means[0].tolist() == [[0, 0], [1, 2], [0, 0]]
    assert means[1].tolist() == [[6, 7], [0, 0], [9, 10]]


def test_gradients_reach_everything_from_both_views() -> None:
    system = _system().train()
    terms = system.loss(system.encode(_batch(system)))
    assert set(terms) == {
        "geometry_first",
        "geometry_second",
        "foreground_first",
        "foreground_second",
        "foreground_share",
    }
    sum(term.total * term.weight for term in terms.values()).backward()  # type: ignore[union-attr]
    for name, parameter in system.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    share = terms["foreground_share"]
    assert share.weight == 0 and 0.05 < float(share.total) / share.count < 0.4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"foreground": 0.0}, {"geometry_first", "geometry_second", "foreground_share"}),
        ({"foreground": 0.0, "positives": "points"}, {"geometry_first", "geometry_second", "foreground_share"}),
    ],
)
def test_variants(arguments: dict[str, Any], names: set[str]) -> None:
    system = _system(**arguments).train()
    assert not hasattr(system, "correspondence")
    features = system.encode(_batch(system))
    assert set(system.loss(features)) == names
    first, second = system.pair(features)  # type: ignore[misc]
    assert first.shape == second.shape and len(first) > 3 and first.shape[1] == 6


def test_single_points_as_positives_are_info_nce_over_the_scene() -> None:
    system = _system(foreground=0.0, positives="points").train()
    features = system.encode(_batch(system, rows=1))
    there = features["first_asked"][0]
    first, second = features["first_points"][0][there], features["second_points"][0][there]
    cosines = torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T
    wanted = torch.nn.functional.cross_entropy(cosines / 0.1, torch.arange(len(first)), reduction="sum")
    term = system.loss(features)["geometry_first"]
    assert int(term.count) == len(first)  # type: ignore[union-attr]
    torch.testing.assert_close(term.total, wanted)  # type: ignore[union-attr]


def test_pairs_are_foreground_segments_of_both_views() -> None:
    system = _system().train()
    features = system.encode(_batch(system))
    first, second = system.pair(features)  # type: ignore[misc]
    kinds, _ = system.segments(features, "points")
    assert len(first) == len(second) == int((kinds == 1).sum()) > 3


def test_a_scene_where_nothing_is_foreground_still_teaches() -> None:
    system = _system().train()
    empty = {**_row(0, things=1)}
    empty["points"] = empty["points"][:700]  # ground alone
    view = system.views()
    batch = system.collate([view(empty, np.random.default_rng(0)), view(_row(1), np.random.default_rng(1))])
    batch["first"]["xyz"], batch["second"]["xyz"] = batch["first"]["xyz"].double(), batch["second"]["xyz"].double()
    batch["first"]["features"] = batch["first"]["features"].double()
    batch["second"]["features"] = batch["second"]["features"].double()
    terms = system.loss(system.encode(batch))
    assert all(math.isfinite(float(term.total)) for term in terms.values())  # type: ignore[union-attr]
    assert int(terms["geometry_first"].count) > 20  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"positives": "points"}, "set foreground=0"),
        ({"hardest": 0}, "hardest at least 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"foreground": -1.0}, "foreground must be at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _system(**wrong)
