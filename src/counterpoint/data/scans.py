"""Decode any point cloud people keep on disk into named arrays, or say in one line why not."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint.data import ply
from counterpoint.data.arrays import read_npy, read_npz
from counterpoint.data.errors import BadRow
from counterpoint.data.las import read_las
from counterpoint.data.media import head_of, media_source
from counterpoint.data.pcd import read_pcd
from counterpoint.data.semantic_kitti import classes_of_labels

__all__ = ["EXTENSIONS", "IGNORED", "Cloud", "read_point_mask", "read_points"]

EXTENSIONS = frozenset([".npy", ".npz", ".ply", ".pcd", ".las", ".laz", ".bin"])
"""File name endings that are taken for point clouds."""

Cloud = dict[str, np.ndarray]
Fields = Mapping[str, np.ndarray]

IGNORED = 255
"""Class of points that count for nothing."""

MAX_POINTS = 10_000_000
_FAR = 10_000.0
"""Metres from 0 beyond which float32 places are coarser than a millimetre: the cloud is then shifted."""

_NAMES = {
    "intensity": ("intensity", "scalar_intensity", "reflectance", "reflectivity", "remission", "i"),
    "red": ("red", "r", "diffuse_red"),
    "green": ("green", "g", "diffuse_green"),
    "blue": ("blue", "b", "diffuse_blue"),
    "label": ("label", "mask", "class", "classification", "scalar_label", "scalar_classification", "semantic"),
}
"""What other programs call the fields, in lower case."""


def read_points(value: Any, *, max_points: int = MAX_POINTS) -> Cloud:
    """A point cloud as arrays of one row a point.

    Files are told by their first bytes: npy and npz (arrays, never objects), ply and pcd (text or binary), las and laz.
    What is none of these is a sweep of float32: five a point (nuScenes) where the name ends in .pcd.bin or every fifth
    is a ring number, else four (KITTI). Columns of a plain array are x, y, z, then intensity (4 or 5 columns) or
    red, green, blue (6 and more).

    Args:
        value: a path, bytes, an array (..., 3 and more) or with named fields, a mapping of arrays with `xyz`, or a
            mapping with `bytes` or `path` (the hub's form).
        max_points: points refused above, as the header has it, before they are read.

    Returns:
        `xyz` (N, 3) float32 in the file's unit, and, where the file has them, `intensity` (N,) and `colour` (N, 3)
        float32 in [0, 1] and `label` (N,) int64. Points that are not finite are left out; `kept` (N,) int64 then says
        which stayed, of `total` () points. A cloud farther than 10 km from 0 is shifted by `origin` (3,) float64, which
        is to be added. Intensities and colours above 1 are divided by 255, or by 65535 where one is above 255.

    Raises:
        BadRow: no point cloud, damaged, empty, or too large.
        ImportError: las or laz without laspy; says what to install.
    """
    if isinstance(value, np.ndarray):
        return _finish(_from_array(value), max_points)
    if isinstance(value, Mapping) and "xyz" in value:
        return _finish(_from_mapping(value), max_points)
    source = media_source(value, "point cloud", "bytes, a path or an array (N, 3)")
    try:
        return _finish(_decode(source, max_points), max_points)
    except (BadRow, ImportError):
        raise
    except (OSError, ValueError, KeyError, IndexError, struct.error, OverflowError, MemoryError, EOFError) as error:
        text = " ".join(str(error).split())[:160]
        raise BadRow(f"damaged point cloud: {text or type(error).__name__}") from error


def _decode(source: Path | io.BytesIO, max_points: int) -> Fields:
    head = head_of(source, 16)
    if head.startswith(b"\x93NUMPY"):
        return _from_array(read_npy(source, max_points))
    if head.startswith(b"PK\x03\x04"):
        return _from_mapping(read_npz(source, max_points))
    if head.startswith((b"ply\n", b"ply\r")):
        return ply.read_ply(source, max_points)
    if head.startswith(b"LASF"):
        return read_las(source, max_points)
    if head.startswith((b"# .PCD", b"VERSION", b"FIELDS")):
        return read_pcd(source, max_points)
    if isinstance(source, Path) and source.suffix.lower() not in (".bin", ""):
        raise BadRow(f"not a point cloud: it does not begin as a {source.suffix or 'known'} file does")
    return _from_array(_sweep(source, max_points))


def _sweep(source: Path | io.BytesIO, max_points: int) -> np.ndarray:
    """(N, 4 or 5) of a file of float32 without a header."""
    size = source.stat().st_size if isinstance(source, Path) else len(source.getvalue())
    if size % 16 and size % 20:
        raise BadRow(f"not a point cloud: {size} bytes are no whole number of points of 4 or 5 float32")
    if size // 16 > max_points * 5 // 4:
        raise BadRow(f"{size // 16} points are more than the limit of {max_points} (max_points)")
    content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    values = np.frombuffer(content, dtype="<f4")
    five = isinstance(source, Path) and source.name.lower().endswith(".pcd.bin")
    if size % 20 == 0 and not five:
        rings = values[4::5]
        five = bool(size % 16) or bool(((rings >= 0) & (rings < 256) & (rings == np.floor(rings))).all())
    if five and size % 20:
        raise BadRow(f"not a nuScenes sweep: {size} bytes are no whole number of points of 5 float32")
    table = values.reshape(-1, 5 if five else 4)
    with np.errstate(invalid="ignore"):
        likely = (np.abs(table[:, :3]) < _FAR).all(axis=1)
    if likely.mean() < 0.5:  # text and pictures are huge numbers when read so
        raise BadRow("not a point cloud: read as a sweep of float32, most of its points lie more than 10 km away")
    return table


def _from_array(array: np.ndarray) -> Fields:
    """Fields of an array with one row a point."""
    if array.dtype.names:
        flat = array.reshape(-1)
        return {name.lower(): flat[name] for name in array.dtype.names if flat[name].ndim == 1}
    if array.ndim < 2 or array.shape[-1] < 3 or array.dtype.kind not in "fiu":
        raise BadRow(f"array of shape {array.shape} of {array.dtype} is no point cloud: give (N, 3) or more columns")
    columns = array.reshape(-1, array.shape[-1]).T
    names = ["x", "y", "z", "red", "green", "blue"] if len(columns) >= 6 else ["x", "y", "z", "intensity"]
    return dict(zip(names, columns, strict=False))


def _from_mapping(arrays: Mapping[str, Any]) -> Fields:
    """Fields of named arrays: `xyz` or `points`, and further ones with a row a point."""
    given = {str(name).lower(): np.asarray(array) for name, array in arrays.items()}
    main = next((name for name in ("xyz", "points", "pos", "coord", "arr_0") if name in given), None)
    if main is None:
        raise BadRow(f"no array called xyz or points; found: {', '.join(sorted(given)) or 'none'}")
    fields = dict(_from_array(given.pop(main)))
    count = len(fields.get("x", ()))
    colour = next((given.pop(name) for name in ("colour", "color", "rgb", "colors") if name in given), None)
    if colour is not None:
        if colour.shape != (count, 3):
            raise BadRow(f"colour has shape {colour.shape}, the cloud {count} points")
        fields.update(zip(("red", "green", "blue"), colour.T, strict=True))
    fields.update((name, array) for name, array in given.items() if array.ndim == 1 and len(array) == count)
    return fields


def _finish(fields: Fields, max_points: int) -> Cloud:
    """Named, scaled, finite, near 0."""
    missing = [name for name in "xyz" if name not in fields]
    if missing:
        raise BadRow(f"no field {missing[0]!r}; found: {', '.join(fields) or 'none'}")
    count = len(fields["x"])
    if count > max_points:
        raise BadRow(f"{count} points are more than the limit of {max_points} (max_points)")
    if any(array.dtype.kind not in "fiu" or array.shape != (count,) for array in fields.values()):
        raise BadRow("its fields are no numbers, one a point")
    place = np.stack([fields[name] for name in "xyz"], axis=1).astype(np.float64)  # (N, 3)
    finite = np.isfinite(place).all(axis=1) & (np.abs(place) < 1e12).all(axis=1)
    if not finite.any():
        raise BadRow("no points" if not count else f"none of its {count} points has a finite place")
    cloud: Cloud = {}
    if not finite.all():
        cloud["kept"], cloud["total"] = np.flatnonzero(finite), np.array(count)
        fields, place = {name: array[finite] for name, array in fields.items()}, place[finite]
    if np.abs(place).max() > _FAR:
        cloud["origin"] = np.round((place.min(axis=0) + place.max(axis=0)) / 2)
        place = place - cloud["origin"]
    cloud["xyz"] = place.astype(np.float32)
    found = {
        name: next((fields[other] for other in others if other in fields), None) for name, others in _NAMES.items()
    }
    if found["intensity"] is not None:
        cloud["intensity"] = _share(found["intensity"])
    colours = [found[name] for name in ("red", "green", "blue")]
    if all(channel is not None for channel in colours):
        cloud["colour"] = _share(np.stack(colours, axis=1))  # type: ignore[arg-type]
    if found["label"] is not None:
        cloud["label"] = found["label"].astype(np.int64)
    return cloud


def _share(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1]."""
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max())
    scale = 1.0 if largest <= 1 else 255.0 if largest <= 255 else 65535.0
    return (values / scale).clip(0, 1).astype(np.float32)


def read_point_mask(value: Any, cloud: Mapping[str, np.ndarray], *, max_points: int = MAX_POINTS) -> np.ndarray:
    """Class of every point of a cloud, (N,) int64, `IGNORED` where it does not count.

    Args:
        value: an array, or the bytes or path of a .npy, of a SemanticKITTI .label (uint32; becomes one of the 19
            classes that are scored), or of one byte a point (nuScenes lidarseg).
        cloud: what `read_points` gave for the points beside it.
        max_points: as in `read_points`.

    Raises:
        BadRow: not as many numbers as the file of points has points, or no such file.
    """
    kept = cloud.get("kept")
    count = len(cloud["xyz"])
    if not isinstance(value, np.ndarray):
        value = _labels(
            media_source(value, "mask of points", "bytes, a path or an array (N,)"),
            int(cloud.get("total", count)),
            max_points,
        )
    if value.ndim != 1 or value.dtype.kind not in "iub":
        raise BadRow(f"a mask of points holds one class number a point, got shape {value.shape} of {value.dtype}")
    if kept is not None and len(value) == int(cloud["total"]):
        value = value[kept]
    if len(value) != count:
        raise BadRow(f"its mask has {len(value)} class numbers, its cloud {count} points")
    if int(value.min()) < 0:
        raise BadRow(f"its mask holds {int(value.min())}: class numbers begin at 0, and {IGNORED} is ignored")
    return value.astype(np.int64)


def _labels(source: Path | io.BytesIO, count: int, max_points: int) -> np.ndarray:
    """(N,) of a file of class numbers."""
    try:
        if head_of(source, 6) == b"\x93NUMPY":
            return read_npy(source, max_points)
        size = source.stat().st_size if isinstance(source, Path) else len(source.getvalue())
        if size > 4 * max_points:
            raise BadRow(f"{size} bytes are more class numbers than the limit of {max_points} (max_points)")
        content = source.read_bytes() if isinstance(source, Path) else source.getvalue()
    except (OSError, ValueError) as error:
        raise error if isinstance(error, BadRow) else BadRow(f"mask: {error}") from error
    if (isinstance(source, Path) and source.suffix.lower() == ".label") or size == 4 * count:
        if size % 4:
            raise BadRow(f"mask: {size} bytes are no whole number of uint32")
        return classes_of_labels(np.frombuffer(content, dtype="<u4"), IGNORED)
    return np.frombuffer(content, dtype=np.uint8)
