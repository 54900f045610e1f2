"""The made-up streets: rays end where geometry says, classes and boxes fit the points, sequences fit together."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.builtin import _streets, lidar
from counterpoint.data.packages import find_package
from counterpoint.evaluation.protocols.forecast import in_moving_boxes


@pytest.fixture(autouse=True)
def _packages() -> None:
    try:
        for package in lidar.NEEDS:
            find_package(package)
    except DataError as error:
        pytest.skip(str(error))


def _bare(*things: _streets.Thing) -> _streets.Street:
    """Level ground and a sensor that moves two metres a second along x."""
    return _streets.Street(things, np.zeros((1, 4)), 2.0, 0.0, (0.0, 0.0, 0.0))


def _inside(points: np.ndarray, box: dict[str, Any], room: float) -> np.ndarray:
    still = {**box, "velocity": [1.0, 0.0], "size": [side + 2 * (room - 0.1) for side in box["size"]]}
    return in_moving_boxes(points, [still])


def test_rays_end_at_the_ground_and_at_a_wall() -> None:
    wall = _streets._block("building", (1.0, 200.0, 9.0), 10.5, 0.0, 0.5)
    directions = lidar._directions(16)
    ranges, owners, cosines = lidar._cast(_bare(wall), 0.0, np.array([0.0, 0.0, 1.8]), directions)
    down, front = directions[:, 2] < -1e-9, directions[:, 0] > 0
    never = 1e9
    to_ground = np.where(down, -1.8 / np.minimum(directions[:, 2], -1e-9), never)
    to_wall = np.where(front, 10.0 / np.maximum(directions[:, 0], 1e-9), never)
    to_wall[1.8 + to_wall * directions[:, 2] > 9.0] = never
    beside = np.abs(to_ground * np.abs(directions[:, 1])) < 28  # the ground is no wider
    wanted = np.minimum(to_ground, to_wall)
    clear = beside & (wanted < 60) & (np.abs(to_ground - to_wall) > 0.05)
    assert clear.sum() > 1000
    np.testing.assert_allclose(ranges[clear], wanted[clear], rtol=1e-6)
    assert np.array_equal(owners[clear] == 0, (to_wall < to_ground)[clear])
    np.testing.assert_allclose(cosines[clear & (owners == -1)], -directions[clear & (owners == -1), 2], rtol=1e-6)


def test_classes_instances_and_boxes_fit_the_points() -> None:
    seen, noise = set(), 0.15
    for row in open_rows("lidar:validation")[:12]:
        points, mask, instance = row["points"], row["mask"], row["instance"]
        assert points.dtype == np.float32 and len(points) == len(mask) == len(instance)
        assert 0 <= points[:, 3].min() <= points[:, 3].max() <= 1
        assert np.linalg.norm(points[:, :3], axis=1).max() < 40.2
        assert np.array_equal(instance == 0, mask == lidar.CLASSES.index("ground"))
        assert all(len(set(mask[instance == thing])) == 1 for thing in set(instance) - {0})
        for box in row["boxes"]:
            inside = _inside(points[:, :3], box, noise)
            own = mask == lidar.CLASSES.index(box["label"])
            assert (inside & own).sum() >= box["points"] >= 5
            seen.add(box["label"])
        boxed = np.any([_inside(points[:, :3], box, noise) for box in row["boxes"]], axis=0)
        mobile = np.isin(mask, [lidar.CLASSES.index(name) for name in ("car", "cyclist", "pedestrian")])
        missed = {thing for thing in set(instance[mobile & ~boxed])}
        assert all((instance == thing).sum() < 5 for thing in missed), "a thing with returns enough has a box"
    assert seen == {"car", "cyclist", "pedestrian"}


def test_poses_carry_what_stands_and_velocities_what_moves() -> None:
    moved = 0
    for row in open_rows("lidar:validation").select(range(0, 40, 4)):
        later = row["future"][0]
        step = np.linalg.inv(later["pose"]) @ row["pose"]
        for box in row["boxes"]:
            shift = np.append(np.array(box["velocity"]) * lidar.SECONDS, 0.0)
            place = step[:3, :3] @ (np.array(box["centre"]) + shift) + step[:3, 3]
            same = [other for other in later["boxes"] if other["label"] == box["label"]]
            apart = [np.linalg.norm(np.array(other["centre"])[:2] - place[:2]) for other in same]
            if apart and min(apart) < 1e-6:
                other = same[int(np.argmin(apart))]
                turned = step[:2, :2] @ [np.cos(box["yaw"]), np.sin(box["yaw"])]
                np.testing.assert_allclose(turned, [np.cos(other["yaw"]), np.sin(other["yaw"])], atol=1e-9)
                assert other["size"] == box["size"]
                moved += np.hypot(*box["velocity"]) > 0.5
    assert moved > 20


def test_nothing_runs_into_anything() -> None:
    for number in range(20):
        street, _ = lidar._street("train", number)
        for time in (0.0, 1.5, 3.0):
            x, y, _ = street.ego(time)
            for thing in street.things:
                away = np.hypot(*(np.array(thing.at(time)) - (x, y)))
                assert not thing.mobile or away > 0.5 * min(thing.size[:2]) + 0.95


def test_the_sensor_turns_on_an_arc() -> None:
    street = _streets.Street((), np.zeros((1, 4)), 5.0, 0.2, (1.0, 2.0, 0.3))
    place, heading = np.array([1.0, 2.0]), 0.3
    for _ in range(20_000):
        place = place + 5e-4 * np.array([np.cos(heading), np.sin(heading)])
        heading += 0.2 * 1e-4
    np.testing.assert_allclose(street.ego(2.0), [*place, heading], atol=1e-3)


def test_a_row_is_the_same_every_time_and_in_every_process() -> None:
    rows = open_rows("lidar:test")
    first = rows[7]
    lidar.sweep.cache_clear()
    lidar._street.cache_clear()
    second = pickle.loads(pickle.dumps(rows))[7]
    assert np.array_equal(first["points"], second["points"]) and first["boxes"] == second["boxes"]
    assert pickle.loads(pickle.dumps(first["future"]))[2]["pose"].shape == (4, 4)


def test_splits_are_other_streets_and_the_future_is_the_next_row() -> None:
    train, few = open_rows("lidar"), open_rows("lidar:train-20")
    assert (len(train), len(open_rows("lidar:validation")), len(open_rows("lidar:test"))) == (1200, 200, 400)
    assert len(set(few.column("sequence"))) == len(few) == 20
    assert few.column("id") == train[:20].column("id")
    streets = [set(open_rows(f"lidar:{split}").column("sequence")) for split in ("train", "validation", "test")]
    assert not (streets[0] & streets[1] or streets[0] & streets[2] or streets[1] & streets[2])
    assert not np.array_equal(open_rows("lidar:test")[0]["points"], open_rows("lidar:validation")[0]["points"])
    next_row = train[300]
    assert (next_row["sequence"], next_row["frame"]) == (train[0]["sequence"], 1)
    assert np.array_equal(train[0]["future"][0]["points"], next_row["points"])
    with pytest.raises(IndexError, match="sweep 3 of the 3"):
        train[0]["future"][3]
    assert len(train[0]["future"][1:]) == 2 and train[0]["future"][-1]["pose"].shape == (4, 4)


def test_a_missing_package_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = lidar.Package("embreex", "4.4.0.post1", "no_such_module", light=True)
    monkeypatch.setattr(lidar, "NEEDS", (absent,))
    with pytest.raises(DataError, match=r"pip install embreex==4\.4\.0\.post1"):
        lidar.rows("train")
