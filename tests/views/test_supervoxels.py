"""Over-segmentation: planes, clusters and rooms whose parts are known; purity and recall on made streets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from counterpoint.data import open_rows
from counterpoint.data.scans import read_points
from counterpoint.views._indoor import grow, voxels
from counterpoint.views._outdoor import clusters, ground_planes, numbered
from counterpoint.views.supervoxels import Segments, Supervoxels


def _purity(of_point: np.ndarray, chosen: np.ndarray, truth: np.ndarray) -> float:
    """Share of the points of the chosen segments that belong to the commonest thing of their segment."""
    right = sum(np.bincount(truth[of_point == segment]).max() for segment in np.flatnonzero(chosen))
    return float(right / np.isin(of_point, np.flatnonzero(chosen)).sum())


def test_streets_fall_apart_into_their_things() -> None:
    """The project's bar for the outdoor rule: at least 95 % of a foreground segment is one thing."""
    rows = open_rows("lidar:validation")
    names = rows.class_names
    assert names is not None
    things = [names.index(name) for name in ("car", "cyclist", "pedestrian")]
    purities, sizes, recalls, shares, ground = [], [], [], [], []
    for index in range(0, 200, 13):
        row = rows[index]
        found = Supervoxels(cache=False)(read_points(row["points"]))
        foreground = found.foreground_of(found.of_point)
        purities.append(_purity(found.of_point, found.foreground, row["instance"]))
        sizes.append(foreground.sum())
        shares.append(found.share)
        recalls.append(foreground[np.isin(row["mask"], things)].mean())
        ground.append(foreground[row["mask"] == names.index("ground")].mean())
    assert np.average(purities, weights=sizes) >= 0.95
    assert np.mean(recalls) >= 0.65
    assert np.mean(ground) < 0.02
    assert 0.05 <= np.mean(shares) <= 0.35


def test_ground_is_found_where_it_slopes_and_walls_are_not_ground() -> None:
    rng = np.random.default_rng(0)
    flat = rng.uniform(-20, 20, (4000, 2))
    ground = np.column_stack([flat, -1.8 + 0.05 * flat[:, 0] + rng.normal(0, 0.03, 4000)])
    wall = np.column_stack([np.full(1000, 8.0), rng.uniform(-5, 5, 1000), rng.uniform(-1, 3, 1000)])
    found = ground_planes(np.concatenate([ground, wall]), threshold=0.2, rng=np.random.default_rng(1))
    assert (found[:4000] >= 0).mean() > 0.99
    assert (found[4000:] >= 0).mean() < 0.2
    assert set(found) <= set(range(-1, 8))


def test_clusters_are_the_components_of_a_graph_whose_radius_grows() -> None:
    near = np.array([[2.0, 0, 0], [2.4, 0, 0], [3.15, 0, 0]])  # 0.53 m there: the first two are joined
    far = near + [38.0, 0, 0]  # 0.8 m there: all are
    found = clusters(np.concatenate([near, far]), radius=(0.5, 0.8))
    assert found[0] == found[1] != found[2] and len(set(found[3:])) == 1 and found[3] != found[0]


def test_small_segments_are_noise_and_numbers_have_no_gaps() -> None:
    found = numbered(np.array([7] * 5 + [3] * 2 + [9] * 4), 3)
    assert found.tolist() == [0] * 5 + [-1] * 2 + [1] * 4


def test_size_decides_what_is_foreground() -> None:
    rng = np.random.default_rng(0)
    ground = np.column_stack([rng.uniform(-20, 20, (6000, 2)), rng.normal(-1.8, 0.02, 6000)])

    def box(middle: tuple[float, float, float], size: tuple[float, float, float]) -> np.ndarray:
        return rng.uniform(-0.5, 0.5, (1500, 3)) * size + middle

    car, wall = box((6, 0, -0.7), (4, 2, 1.4)), box((0, 14, 0.0), (16, 0.3, 2.8))
    post = box((-6, -3, 2.5), (0.3, 0.3, 8.0))
    xyz = np.concatenate([ground, car, wall, post])
    found = Supervoxels(cache=False)({"xyz": xyz.astype(np.float32)})
    foreground = found.foreground_of(found.of_point)
    shares = [foreground[start : start + 1500].mean() for start in (6000, 7500, 9000)]
    assert shares[0] > 0.95 and shares[1] == 0 and shares[2] == 0
    assert not foreground[:6000].any()


def _room() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floor, two walls, a box on the floor and a ball; of each point the thing it belongs to."""
    rng, step = np.random.default_rng(0), 0.03
    grid = np.stack(np.meshgrid(np.arange(0, 3, step), np.arange(0, 3, step)), axis=-1).reshape(-1, 2)
    floor = np.column_stack([grid, np.zeros(len(grid))])
    low = grid[grid[:, 1] < 2.0]
    walls = [np.column_stack([np.zeros(len(low)), low]), np.column_stack([low[:, 0], np.zeros(len(low)), low[:, 1]])]
    side = np.stack(np.meshgrid(np.arange(0, 0.5, step), np.arange(0, 0.5, step)), axis=-1).reshape(-1, 2)
    faces = [np.insert(side, axis, 0.5, axis=1) for axis in range(3)]
    box = np.concatenate(faces) + [1.8, 1.8, 0.05]
    ball = rng.normal(size=(2500, 3))
    ball = 0.3 * ball / np.linalg.norm(ball, axis=1, keepdims=True) + [1.0, 1.2, 0.6]
    parts = [floor, *walls, box, ball]
    xyz = np.concatenate(parts) + rng.normal(0, 0.003, (sum(map(len, parts)), 3))
    thing = np.repeat(np.arange(5), [len(part) for part in parts])
    colour = np.array([[0.5] * 3, [0.7] * 3, [0.7] * 3, [0.8, 0.2, 0.2], [0.2, 0.3, 0.8]])[thing]
    return xyz, colour, thing


def test_a_room_has_its_planes_behind_and_its_things_in_front() -> None:
    xyz, colour, thing = _room()
    found = Supervoxels(kind="indoor", cache=False)({"xyz": xyz.astype(np.float32), "colour": colour})
    foreground = found.foreground_of(found.of_point)
    assert foreground[thing <= 2].mean() < 0.15
    assert foreground[thing >= 3].mean() > 0.85
    # Strips along the edges of floor and walls remain, a few points of each: both are the room itself.
    assert _purity(found.of_point, found.foreground, np.maximum(thing, 2)) >= 0.95


def test_regions_grow_through_neighbours_to_the_nearest_seed() -> None:
    xyz = np.column_stack([np.arange(0.025, 1.0, 0.05), np.full(20, 0.025), np.full(20, 0.025)])
    found = voxels(xyz, None, 0.05)
    assert len(found.place) == 20 and len(found.edges) == 19
    label = grow(found, voxel=0.05, seeds=0.5)
    assert len(set(label)) == 2 and (np.diff(label) >= 0).all()
    apart = voxels(np.concatenate([xyz, xyz + [0, 3.0, 0]]), None, 0.05)
    label = grow(apart, voxel=0.05, seeds=5.0)
    assert len(set(label)) == 2, "what no seed reaches is a region of its own"


def test_the_same_scene_is_segmented_once_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path))
    xyz, colour, _ = _room()
    cloud = {"xyz": xyz.astype(np.float32), "colour": colour.astype(np.float32)}
    for rule in (Supervoxels(), Supervoxels(kind="indoor")):
        first = rule(cloud)
        monkeypatch.setattr(Supervoxels, "_find", lambda *_: pytest.fail("computed again"))
        again = rule(cloud)
        monkeypatch.undo()
        monkeypatch.setenv("COUNTERPOINT_CACHE", str(tmp_path))
        np.testing.assert_array_equal(first.of_point, again.of_point)
        np.testing.assert_array_equal(first.foreground, again.foreground)
        fresh = Supervoxels(kind=rule.kind, cache=False)(cloud)
        np.testing.assert_array_equal(first.of_point, fresh.of_point)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_a_scene_without_foreground_is_all_foreground() -> None:
    rng = np.random.default_rng(0)
    level = np.column_stack([rng.uniform(-9, 9, (900, 2)), rng.normal(0, 0.02, 900)]).astype(np.float32)
    found = Supervoxels(cache=False)({"xyz": level})
    assert found.foreground.all() and found.share > 0.9


def test_noise_is_never_foreground_and_rules_are_checked() -> None:
    found = Segments(np.array([0, 1, -1]), np.array([True, False]))
    assert found.foreground_of(found.of_point).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="at least two voxels"):
        Supervoxels(seeds=0.05)
