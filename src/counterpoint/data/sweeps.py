"""Folders of driving data as they come: sequences of laser sweeps in the layouts of KITTI and of nuScenes.

KITTI odometry and SemanticKITTI: `sequences/NN/velodyne/*.bin`, beside them `poses.txt` and `calib.txt` (poses also as
`poses/NN.txt`) and `labels/*.label`. nuScenes: `samples/LIDAR_TOP/*.pcd.bin` and `sweeps/LIDAR_TOP/*.pcd.bin`, with
poses where the tables (`v1.0-*/`) lie beside them. A single sequence, or a folder LIDAR_TOP, may be named by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data.errors import DataError
from counterpoint.data.readers import Reader, digest
from counterpoint.data.rows import Rows
from counterpoint.data.semantic_kitti import CLASSES

__all__ = ["FOLLOWING", "SweepReader", "find_sweeps", "open_sweeps"]

FOLLOWING = 5
"""Sweeps in `future`, at most."""

_SPLITS = {"train": (*range(8), 9, 10), "validation": (8,), "test": tuple(range(11, 22))}
"""Sequences of KITTI odometry, as SemanticKITTI divides them."""
_LARGEST_TABLE = 512 * 2**20
_NUSCENES = re.compile(r"(?P<log>.+?)__LIDAR_TOP__(?P<time>\d+)\.pcd\.bin")


@dataclass(frozen=True)
class _Sweep:
    """One file: where it is, its sequence and place there, its pose (row by row) and classes where there are some."""

    points: Path
    sequence: str
    frame: int
    pose: tuple[float, ...] | None
    mask: Path | None


class SweepReader(Reader):
    """Sweeps of sequences, in order; nothing is decoded.

    Args:
        base: the folder that ids are relative to.
        sweeps: all sweeps, those of a sequence next to each other.
    """

    def __init__(self, base: Path, sweeps: Sequence[_Sweep]) -> None:
        self._base, self._sweeps = base, list(sweeps)
        posed, masked = all(s.pose for s in sweeps), all(s.mask for s in sweeps)
        self._posed = posed
        self.columns = ("points", *(["mask"] if masked else []), *(["pose", "future"] if posed else []))
        self.columns += ("sequence", "frame")

    def __len__(self) -> int:
        return len(self._sweeps)

    def row_id(self, index: int) -> str:
        """The path relative to the folder."""
        return self._sweeps[index].points.relative_to(self._base).as_posix()

    def read(self, index: int) -> dict[str, Any]:
        """Paths and poses: `points`, `mask`, `pose` (4, 4), `future` (the following sweeps), `sequence`, `frame`."""
        sweep = self._sweeps[index]
        row: dict[str, Any] = {"id": self.row_id(index), "points": sweep.points}
        if "mask" in self.columns:
            row["mask"] = sweep.mask
        if self._posed:
            after = self._sweeps[index + 1 : index + 1 + FOLLOWING]
            row["pose"] = _matrix(sweep.pose)
            row["future"] = [
                {"points": other.points, "pose": _matrix(other.pose)}
                for other in after
                if other.sequence == sweep.sequence
            ]
        return {**row, "sequence": sweep.sequence, "frame": sweep.frame}

    def identity(self) -> str:
        """Over ids, sizes and poses."""
        parts = [f"{self.row_id(n)} {sweep.points.stat().st_size} {sweep.pose}" for n, sweep in enumerate(self._sweeps)]
        return digest("sweeps", *parts)


def _matrix(pose: Sequence[float] | None) -> np.ndarray:
    return np.array(pose, dtype=np.float64).reshape(4, 4)


def find_sweeps(base: Path) -> str | None:
    """The layout of a folder, "kitti" or "nuscenes"; None for any other."""
    if _kitti_sequences(base):
        return "kitti"
    return "nuscenes" if _lidar_top(base) else None


def open_sweeps(base: Path, *, split: str | None, name: str) -> Rows:
    """Rows of a folder in the layout of KITTI or nuScenes.

    Args:
        base: the folder.
        split: of SemanticKITTI's sequences: train, validation or test; None and "all" take every sequence there is.
        name: of the source.

    Raises:
        DataError: another layout, no such split, or poses that do not fit the sweeps.
    """
    layout = find_sweeps(base)
    if layout is None:
        raise DataError(f"{base} is laid out neither like KITTI (velodyne/) nor like nuScenes (LIDAR_TOP/*.pcd.bin)")
    if layout == "kitti":
        sweeps = _kitti(base, split)
    elif split not in (None, "all"):
        raise DataError(f"{base} has no splits, so split={split!r} cannot be chosen")
    else:
        sweeps = _nuscenes(base)
    masked = all(sweep.mask for sweep in sweeps)
    return Rows(SweepReader(base, sweeps), name=name, class_names=CLASSES if masked else None)


def _kitti_sequences(base: Path) -> list[Path]:
    """Folders that hold velodyne/*.bin."""
    inner = base / "sequences"
    candidates = [base, *(sorted(path for path in inner.iterdir() if path.is_dir()) if inner.is_dir() else [])]
    return [path for path in candidates if next((path / "velodyne").glob("*.bin"), None) is not None]


def _kitti(base: Path, split: str | None) -> list[_Sweep]:
    sequences = _kitti_sequences(base)
    if split not in (None, "all"):
        if split not in _SPLITS:
            raise DataError(f"{base} has no split {split!r}; SemanticKITTI has {', '.join(_SPLITS)} (or all)")
        sequences = [path for path in sequences if path.name.isdecimal() and int(path.name) in _SPLITS[split]]
        if not sequences:
            raise DataError(f"{base} holds none of the sequences {_SPLITS[split]} of split {split!r}")
    sweeps = []
    for folder in sequences:
        files = sorted((folder / "velodyne").glob("*.bin"))
        poses = _kitti_poses(base, folder, len(files))
        for frame, path in enumerate(files):
            label = folder / "labels" / f"{path.stem}.label"
            pose = None if poses is None else tuple(poses[frame].ravel().tolist())
            sweeps.append(_Sweep(path, folder.name, frame, pose, label if label.is_file() else None))
    return sweeps


def _kitti_poses(base: Path, folder: Path, count: int) -> np.ndarray | None:
    """(count, 4, 4) sensor -> world from the poses of the left camera, or None where there are none."""
    places = (folder / "poses.txt", base / "poses" / f"{folder.name}.txt")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    camera = _rows_of_12(path, path.read_text(encoding="ascii", errors="replace").splitlines())
    if len(camera) != count:
        raise DataError(f"{path} has {len(camera)} poses for {count} sweeps")
    calibration = folder / "calib.txt"
    turn = np.eye(4)
    if calibration.is_file():
        lines = dict(line.split(":", 1) for line in calibration.read_text(errors="replace").splitlines() if ":" in line)
        if "Tr" in lines:
            turn = _rows_of_12(calibration, [lines["Tr"]])[0]  # sensor -> camera
    # Relative to the first sweep of the sequence, in the frame of the sensor: x to the front, z up.
    return np.linalg.inv(turn) @ camera @ turn


def _rows_of_12(path: Path, lines: Sequence[str]) -> np.ndarray:
    """(N, 4, 4) from lines of 12 numbers: the upper three rows of each."""
    try:
        upper = np.array([[float(word) for word in line.split()] for line in lines if line.strip()]).reshape(-1, 3, 4)
    except ValueError as error:
        raise DataError(f"{path}: a pose is a line of 12 numbers ({error})") from error
    if not np.isfinite(upper).all():
        raise DataError(f"{path} holds a pose that is not finite")
    last = np.broadcast_to(np.array([[[0.0, 0.0, 0.0, 1.0]]]), (len(upper), 1, 4))
    return np.concatenate([upper, last], axis=1)


def _lidar_top(base: Path) -> list[Path]:
    """Folders of nuScenes sweeps."""
    candidates = (base / "samples" / "LIDAR_TOP", base / "sweeps" / "LIDAR_TOP", base / "LIDAR_TOP", base)
    return [path for path in candidates if next(path.glob("*.pcd.bin"), None) is not None]


def _nuscenes(base: Path) -> list[_Sweep]:
    files = [path for folder in _lidar_top(base) for path in folder.glob("*.pcd.bin")]
    known = _nuscenes_tables(base)
    found = []
    for path in files:
        match = _NUSCENES.fullmatch(path.name)
        log, time = (match["log"], int(match["time"])) if match else (path.parent.name, 0)
        scene, pose = known.get(path.name, (log, None))
        found.append((scene, time, path.name, path, pose))
    sweeps: list[_Sweep] = []
    for scene, _, _, path, pose in sorted(found, key=lambda entry: entry[:3]):
        frame = sweeps[-1].frame + 1 if sweeps and sweeps[-1].sequence == scene else 0
        sweeps.append(_Sweep(path, scene, frame, pose, None))
    return sweeps


def _nuscenes_tables(base: Path) -> dict[str, tuple[str, tuple[float, ...]]]:
    """File name -> scene and pose, from the tables beside the sweeps; {} without tables."""
    folder = next((path for path in sorted(base.glob("v1.0-*")) if (path / "sample_data.json").is_file()), None)
    if folder is None:
        return {}
    scenes = {entry["token"]: entry["scene_token"] for entry in _table(folder / "sample.json")}
    sensors = {entry["token"]: _rigid(entry) for entry in _table(folder / "calibrated_sensor.json")}
    egos = {entry["token"]: entry for entry in _table(folder / "ego_pose.json")}
    known = {}
    for entry in _table(folder / "sample_data.json"):
        name = entry["filename"].rsplit("/", 1)[-1]
        if "LIDAR_TOP" in name:
            pose = _rigid(egos[entry["ego_pose_token"]]) @ sensors[entry["calibrated_sensor_token"]]
            known[name] = (scenes[entry["sample_token"]], tuple(pose.ravel().tolist()))
    return known


def _table(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path} is missing: nuScenes tables come together")
    if path.stat().st_size > _LARGEST_TABLE:
        limit = _LARGEST_TABLE // 2**20
        raise DataError(f"{path} is larger than {limit} MB: name the folder LIDAR_TOP to do without poses")
    try:
        return list(json.loads(path.read_bytes()))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _rigid(entry: Mapping[str, Any]) -> np.ndarray:
    """(4, 4) from a quaternion w, x, y, z and a translation."""
    w, x, y, z = np.array(entry["rotation"], dtype=np.float64) / np.linalg.norm(entry["rotation"])
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = entry["translation"]
    return matrix
