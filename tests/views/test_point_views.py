"""Views of point clouds: geometry, draws, and what two views know of each other."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow
from counterpoint.views.labelled_points import LabelledPoints, classes_of
from counterpoint.views.points import PointCloud, PointViews, collate_clouds, cuboid, described, round_robin, turned
from counterpoint.views.supervoxels import Supervoxels

PLAIN = Supervoxels(cache=False)


def _row(count: int = 400, seed: int = 0) -> dict[str, Any]:
    """Level ground and two boxes on it."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-10, 10, (count, 2)), rng.normal(0, 0.01, count)])
    boxes = [rng.uniform(-0.6, 0.6, (count // 4, 3)) + [x, 3, 1.2] for x in (-4, 4)]
    xyz = np.concatenate([ground, *boxes])
    mask = np.repeat([0, 1, 2], [count, count // 4, count // 4])
    points = np.column_stack([xyz, rng.random(len(xyz))]).astype(np.float32)
    return {"id": "a", "points": points, "mask": mask}


def test_turning_scaling_and_mirroring() -> None:
    found = turned(np.array([[1.0, 2.0, 3.0]]), math.pi / 2, scale=2.0)
    np.testing.assert_allclose(found, [[-4, 2, 6]], atol=1e-12)
    np.testing.assert_allclose(turned(np.array([[1.0, 2.0, 3.0]]), 0.0, flips=(True, False)), [[-1, 2, 3]])
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    moved = turned(points, 1.1, scale=0.5, flips=(True, True))
    assert moved.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), np.linalg.norm(points, axis=1) / 2, rtol=1e-5)


def test_a_cuboid_is_a_box_of_the_shares_drawn() -> None:
    xyz = np.random.default_rng(1).uniform(0, 10, (5000, 3))
    kept = cuboid(xyz, (0.5, 0.9), 0.75, 100, np.array([[0.5, 0.25, 0.5]]))
    middle = xyz[2500, :2]
    first = 0.5 + 0.4 * 0.25  # 0.6; the second side lies in [0.5, 0.8]
    second = 0.5 + 0.3 * 0.5
    extent = np.ptp(xyz[:, :2], axis=0)
    wanted = (np.abs(xyz[:, :2] - middle) <= np.array([first, second]) * extent / 2).all(axis=1)
    np.testing.assert_array_equal(kept, wanted)
    assert cuboid(xyz, (0.5, 0.9), 0.75, 5000, np.array([[0.5, 0.25, 0.5]])).all(), "too few points: everything"


def test_every_segment_gives_the_same_number() -> None:
    segment = np.repeat([0, 1, 2, -1], [1000, 30, 5, 50])
    order = np.random.default_rng(0).permutation(len(segment))
    taken = round_robin(segment, 60, order)
    assert len(set(taken)) == 60
    counts = np.bincount(segment[taken])
    assert counts.tolist() == [28, 27, 5], "what the small one lacks, the others share"
    assert len(round_robin(segment, 5000, order)) == 1035, "noise is never taken"


def test_views_remember_source_and_segment() -> None:
    row, view = (
        _row(),
        PointViews(least=50, points=300, picks=64, supervoxels=PLAIN, features=("intensity",), jitter=0.0),
    )
    sample = view(row, np.random.default_rng(3))
    segments = PLAIN(described(row, ()))
    for name in ("first", "second"):
        cloud, picks = sample[name], sample[f"{name}_picks"]
        source = cloud["source"]
        assert len(source) <= 300 and len(set(source.tolist())) == len(source)
        np.testing.assert_array_equal(cloud["features"][:, 0], row["points"][source, 3])
        there = sample[f"{name}_source"] >= 0
        np.testing.assert_array_equal(source[picks][there], sample[f"{name}_source"][there])
        wanted = torch.from_numpy(segments.of_point)[source[picks][there]]
        np.testing.assert_array_equal(sample[f"{name}_segment"][there], wanted)
        known = torch.from_numpy(segments.foreground)[wanted]
        np.testing.assert_array_equal(sample[f"{name}_foreground"][there], known)
        # A turned, mirrored and scaled cloud keeps its distances up to one factor.
        before, after = torch.from_numpy(row["points"][source, :3]), cloud["xyz"]
        factors = (after[1:] - after[:-1]).norm(dim=1) / (before[1:] - before[:-1]).norm(dim=1)
        torch.testing.assert_close(factors, factors[:1].expand_as(factors), atol=1e-3, rtol=1e-3)
        assert 0.9 <= float(factors[0]) <= 1.1
    assert 0.2 < float(sample["foreground_share"]) <= 1 / 3


def test_matched_picks_are_the_same_points() -> None:
    view = PointViews(least=50, points=300, picks=500, supervoxels=PLAIN, sampling="matched")
    sample = view(_row(), np.random.default_rng(0))
    assert torch.equal(sample["first_source"], sample["second_source"])
    there = sample["first_source"] >= 0
    assert 10 < int(there.sum()) < 300 and sample["first_picks"].shape == (500,)
    common = set(sample["first"]["source"].tolist()) & set(sample["second"]["source"].tolist())
    assert set(sample["first_source"][there].tolist()) == common


def test_all_draws_come_from_the_generator() -> None:
    view, row = PointViews(least=50, points=300, picks=32, supervoxels=PLAIN), _row()
    first, again, other = (view(row, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first["first"]["xyz"], again["first"]["xyz"])
    assert torch.equal(first["second_picks"], again["second_picks"])
    assert first["first"]["xyz"].shape != other["first"]["xyz"].shape or not torch.equal(
        first["first"]["xyz"], other["first"]["xyz"]
    )
    assert pickle.loads(pickle.dumps(view)) == view


def test_clouds_of_a_batch_are_padded_with_a_mask() -> None:
    samples = [
        {"points": {"xyz": torch.ones(n, 3), "label": torch.full((n,), n)}, "number": torch.tensor(n)} for n in (2, 5)
    ]
    batch = collate_clouds(samples)
    assert batch["points"]["xyz"].shape == (2, 5, 3) and batch["number"].tolist() == [2, 5]
    assert batch["points"]["valid"].sum(dim=1).tolist() == [2, 5]
    assert batch["points"]["label"][0].tolist() == [2, 2, 0, 0, 0]
    with pytest.raises(ValueError, match="label has 3 rows, the cloud 2 points"):
        collate_clouds([{"points": {"xyz": torch.ones(2, 3), "label": torch.ones(3)}}])


def test_inference_draws_nothing_and_thins_evenly() -> None:
    row = _row()
    whole = PointCloud(("intensity",))(row)["points"]
    np.testing.assert_array_equal(whole["xyz"], row["points"][:, :3])
    thin = PointCloud(points=100)(row)["points"]
    assert thin["xyz"].shape == (100, 3) and thin["features"].shape == (100, 0)
    middle = PointCloud(origin="middle")({"id": "a", "points": row["points"] + 50})["points"]["xyz"]
    assert float(middle[:, 2].min()) == 0
    torch.testing.assert_close(middle[:, :2].amax(dim=0), -middle[:, :2].amin(dim=0))
    with pytest.raises(BadRow, match="no colour, which the encoder's name asks for"):
        PointCloud(("colour",))(row)


def test_classes_follow_the_points(tmp_path: Path) -> None:
    row = _row()
    sample = LabelledPoints(PointViews(crop=(1.0, 1.0), rotation=0.0, flip=0.0, scale=(1.0, 1.0), jitter=0.0))(
        row, np.random.default_rng(0)
    )
    label, height = sample["points"]["label"], sample["points"]["xyz"][:, 2]
    assert bool((height[label > 0] > 0.5).all()) and bool((height[label == 0] < 0.1).all())
    assert 400 < len(label) < 600, "a fifth is dropped"
    with pytest.raises(BadRow, match="has class 2|have class 2"):
        LabelledPoints(classes=2)(row, np.random.default_rng(0))
    with pytest.raises(BadRow, match="no classes"):
        classes_of({"id": "a"}, described(row, ()))
    from counterpoint.data.ply import write_ply
    from counterpoint.data.scans import read_points

    path = write_ply(tmp_path / "a.ply", {"xyz": row["points"][:, :3], "label": row["mask"]})
    np.testing.assert_array_equal(classes_of({"id": "a", "points": path}, read_points(path)), row["mask"])


@pytest.mark.parametrize(
    "wrong", [{"drop": 1.0}, {"flip": 2.0}, {"crop": (0.5, 1.5)}, {"scale": (0.0, 1.0)}, {"picks": 0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(wrong)):
        PointViews(**wrong)
