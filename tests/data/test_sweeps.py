"""Folders laid out like KITTI and nuScenes: sequences, poses that carry points over, classes, what follows."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from counterpoint.data import DataError, open_rows
from counterpoint.data.scans import read_point_mask, read_points

CAMERA = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1]])  # sensor -> camera
LANDMARK = np.array([20.0, 3.0, 0.5, 1.0])


def _pose(step: int) -> np.ndarray:
    angle, matrix = 0.1 * step, np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = [2.0 * step, 0.3 * step, 0.0]
    return matrix


def _sweep(path: Path, step: int, columns: int) -> None:
    """A sweep whose first point is the landmark as seen from the pose."""
    points = np.random.default_rng(step).normal(size=(12, columns)).astype("<f4")
    points[0, :3] = (np.linalg.inv(_pose(step)) @ LANDMARK)[:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(points.tobytes())


def _kitti(base: Path, sequence: str, count: int, *, labels: bool = True, poses: bool = True) -> None:
    folder = base / "sequences" / sequence
    for step in range(count):
        _sweep(folder / "velodyne" / f"{step:06d}.bin", step, 4)
        if labels:
            (folder / "labels").mkdir(exist_ok=True)
            (folder / "labels" / f"{step:06d}.label").write_bytes(np.full(12, 40 | 9 << 16, "<u4").tobytes())
    in_camera = [CAMERA @ _pose(step) @ np.linalg.inv(CAMERA) for step in range(count)]
    if poses:
        lines = [" ".join(map(repr, matrix[:3].ravel().tolist())) for matrix in in_camera]
        (folder / "poses.txt").write_text("\n".join(lines) + "\n")
    tr = " ".join(map(repr, CAMERA[:3].ravel().tolist()))
    (folder / "calib.txt").write_text(f"P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: {tr}\n")


def test_kitti_sequences_with_poses_and_classes(tmp_path: Path) -> None:
    _kitti(tmp_path, "00", 4)
    _kitti(tmp_path, "08", 2)
    rows = open_rows(tmp_path)
    assert rows.columns == ("points", "mask", "pose", "future", "sequence", "frame")
    assert [(row["sequence"], row["frame"]) for row in rows] == [("00", n) for n in range(4)] + [("08", 0), ("08", 1)]
    assert rows.row_id(1) == "sequences/00/velodyne/000001.bin"
    for row in rows:
        place = np.append(read_points(row["points"])["xyz"][0], 1.0)
        np.testing.assert_allclose(row["pose"] @ place, LANDMARK, atol=1e-4)
    assert [len(row["future"]) for row in rows] == [3, 2, 1, 0, 1, 0]
    np.testing.assert_array_equal(rows[0]["future"][1]["pose"], rows[2]["pose"])
    assert rows[0]["future"][1]["points"] == rows[2]["points"]
    assert rows.class_names is not None
    mask = read_point_mask(rows[0]["mask"], read_points(rows[0]["points"]))
    assert rows.class_names[mask[0]] == "road"
    assert [len(open_rows(tmp_path, split=split)) for split in ("train", "validation", "all")] == [4, 2, 6]
    one = open_rows(tmp_path / "sequences" / "08")
    assert len(one) == 2 and one.row_id(0) == "velodyne/000000.bin"
    assert len(pickle.loads(pickle.dumps(rows))) == 6
    assert rows.fingerprint == open_rows(tmp_path).fingerprint != one.fingerprint


def test_columns_that_some_sequence_lacks_are_left_out(tmp_path: Path) -> None:
    _kitti(tmp_path, "00", 2)
    _kitti(tmp_path, "11", 2, labels=False, poses=False)
    rows = open_rows(tmp_path)
    assert rows.columns == ("points", "sequence", "frame") and rows.class_names is None
    assert set(rows[0]) == {"id", "points", "sequence", "frame"}
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "11.txt").write_text((tmp_path / "sequences" / "00" / "poses.txt").read_text())
    np.testing.assert_allclose(open_rows(tmp_path)[2]["pose"], _pose(0), atol=1e-9)


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 2 3\n", "a line of 12 numbers"), ("", "has 0 poses for 2 sweeps"), ("nan " * 12, "not finite")],
)
def test_poses_that_do_not_fit_are_named(tmp_path: Path, text: str, words: str) -> None:
    _kitti(tmp_path, "00", 2)
    (tmp_path / "sequences" / "00" / "poses.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        open_rows(tmp_path)


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    _kitti(tmp_path, "00", 1)
    with pytest.raises(DataError, match="none of the sequences"):
        open_rows(tmp_path, split="test")
    with pytest.raises(DataError, match="has no split 'dev'; SemanticKITTI has train, validation, test"):
        open_rows(tmp_path, split="dev")
    _sweep(tmp_path / "nu" / "LIDAR_TOP" / "a__LIDAR_TOP__1.pcd.bin", 0, 5)
    with pytest.raises(DataError, match="no splits"):
        open_rows(tmp_path / "nu", split="train")


def _nuscenes(base: Path) -> None:
    """Two scenes of one log, key frames among the samples and others among the sweeps."""
    tables: dict[str, list[dict[str, object]]] = {"sample": [], "sample_data": [], "ego_pose": []}
    sensor = _pose(3)
    tables["calibrated_sensor"] = [{"token": "c", **_rigid(sensor)}]
    for scene in range(2):
        tables["sample"].append({"token": f"s{scene}", "scene_token": f"scene{scene}"})
        for step in range(3):
            folder = "samples" if step == 0 else "sweeps"
            name = f"{folder}/LIDAR_TOP/n015__LIDAR_TOP__{100 * scene + 10 * step}.pcd.bin"
            _sweep(base / name, step, 5)
            token = f"{scene}{step}"
            tables["ego_pose"].append({"token": token, **_rigid(_pose(step) @ np.linalg.inv(sensor))})
            ours = {"ego_pose_token": token, "calibrated_sensor_token": "c", "sample_token": f"s{scene}"}
            tables["sample_data"].append({"filename": name, **ours})
            tables["sample_data"].append({"filename": f"samples/CAM_FRONT/{token}.jpg", **ours})
    (base / "v1.0-mini").mkdir()
    for name, table in tables.items():
        (base / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table))


def _rigid(matrix: np.ndarray) -> dict[str, list[float]]:
    angle = float(np.arctan2(matrix[1, 0], matrix[0, 0]))
    return {"rotation": [np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)], "translation": matrix[:3, 3].tolist()}


def test_nuscenes_with_and_without_its_tables(tmp_path: Path) -> None:
    _nuscenes(tmp_path)
    rows = open_rows(tmp_path)
    assert [(row["sequence"], row["frame"]) for row in rows] == [(f"scene{s}", n) for s in range(2) for n in range(3)]
    for row in rows:
        place = np.append(read_points(row["points"])["xyz"][0], 1.0)
        np.testing.assert_allclose(row["pose"] @ place, LANDMARK, atol=1e-4)
    assert [len(row["future"]) for row in rows] == [2, 1, 0, 2, 1, 0]
    bare = open_rows(tmp_path / "sweeps" / "LIDAR_TOP")
    assert len(bare) == 4 and bare.columns == ("points", "sequence", "frame")
    assert [row["frame"] for row in bare] == [0, 1, 2, 3] and bare[0]["sequence"] == "n015"
    (tmp_path / "v1.0-mini" / "ego_pose.json").write_text("{")
    with pytest.raises(DataError, match=r"ego_pose\.json is not valid JSON"):
        open_rows(tmp_path)
    (tmp_path / "v1.0-mini" / "ego_pose.json").unlink()
    with pytest.raises(DataError, match="nuScenes tables come together"):
        open_rows(tmp_path)
