"""Point clouds in every format, whole, damaged and lying."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint.data import BadRow
from counterpoint.data.ply import encode_ply, write_ply
from counterpoint.data.scans import read_point_mask, read_points

RNG = np.random.default_rng(5)
XYZ = RNG.normal(size=(40, 3)).astype(np.float32)
INTENSITY = RNG.random(40).astype(np.float32)
COLOUR = np.round(RNG.random((40, 3)) * 255).astype(np.float32) / 255
LABEL = RNG.integers(0, 9, 40)
FOUR = np.column_stack([XYZ, INTENSITY])


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


def _npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _ascii_ply() -> bytes:
    head = "ply\nformat ascii 1.0\ncomment made by hand\nelement camera 1\nproperty float view\nelement vertex 40\n"
    head += "property double x\nproperty float y\nproperty float z\nproperty uchar red\nproperty uchar green\n"
    head += "property uchar blue\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n7\n"
    columns = [*XYZ.T.tolist(), *np.round(COLOUR.T * 255).astype(int).tolist()]
    lines = [" ".join(map(repr, line)) for line in zip(*columns, strict=True)]
    return (head + "\n".join(lines) + "\n3 0 1 2\n").encode()


def _big_endian_ply() -> bytes:
    table = np.zeros(40, dtype=[("x", ">f4"), ("y", ">f4"), ("z", ">f4"), ("scalar_Intensity", ">f4")])
    for name, column in zip(table.dtype.names, FOUR.T, strict=True):
        table[name] = column
    head = "ply\nformat binary_big_endian 1.0\nelement vertex 40\n"
    head += "".join(f"property float {name}\n" for name in table.dtype.names) + "end_header\n"
    return head.encode() + table.tobytes()


def _pcd(form: str, body: bytes, points: int = 40) -> bytes:
    head = "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS x y z intensity rgb\nSIZE 4 4 4 4 4\n"
    head += f"TYPE F F F F U\nCOUNT 1 1 1 1 1\nWIDTH {points}\nHEIGHT 1\nPOINTS {points}\nDATA {form}\n"
    return head.encode() + body


def _pcd_table() -> np.ndarray:
    table = np.zeros(40, dtype=[("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("rgb", "<u4")])
    for name, column in zip("xyz", XYZ.T, strict=True):
        table[name] = column
    eight = np.round(COLOUR * 255).astype(np.uint32)
    table["intensity"], table["rgb"] = INTENSITY, eight[:, 0] << 16 | eight[:, 1] << 8 | eight[:, 2]
    return table


def _lzf(content: bytes) -> bytes:
    """Plain runs of up to 32 bytes, and one reference where the content begins with eight equal bytes."""
    out = bytearray()
    for start in range(0, len(content), 32):
        piece = content[start : start + 32]
        out += bytes([len(piece) - 1]) + piece
    return bytes(out)


def _compressed_pcd() -> bytes:
    table = _pcd_table()
    plain = b"".join(table[name].tobytes() for name in table.dtype.names)
    packed = _lzf(plain)
    return _pcd("binary_compressed", struct.pack("<II", len(packed), len(plain)) + packed)


def _ascii_pcd() -> bytes:
    lines = [f"{x!r} {y!r} {z!r} {intensity!r} {rgb}" for x, y, z, intensity, rgb in _pcd_table().tolist()]
    return _pcd("ascii", "\n".join(lines).encode())


def _las(version: str = "1.2") -> bytes:
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(point_format=3, version=version)
    header.scales, header.offsets = np.full(3, 1e-4), np.array([500_000.0, 5_000_000.0, 100.0])
    las = laspy.LasData(header)
    las.x, las.y, las.z = (XYZ + header.offsets).T
    las.intensity = np.round(INTENSITY * 65535).astype(np.uint16)
    las.red, las.green, las.blue = np.round(COLOUR.T * 65535).astype(np.uint16)
    las.classification = LABEL
    buffer = io.BytesIO()
    las.write(buffer)
    return buffer.getvalue()


FORMATS = {
    "npy": (lambda: _npy(FOUR), {"intensity"}),
    "npy-colour": (lambda: _npy(np.column_stack([XYZ, COLOUR])), {"colour"}),
    "npy-f": (lambda: _npy(np.asfortranarray(FOUR)), {"intensity"}),
    "npz": (lambda: _npz(xyz=XYZ, intensity=INTENSITY, colour=COLOUR, label=LABEL), {"intensity", "colour", "label"}),
    "ply": (lambda: encode_ply({"xyz": XYZ, "intensity": INTENSITY, "colour": COLOUR, "label": LABEL}),
            {"intensity", "colour", "label"}),
    "ply-ascii": (_ascii_ply, {"colour"}),
    "ply-big": (_big_endian_ply, {"intensity"}),
    "pcd": (lambda: _pcd("binary", _pcd_table().tobytes()), {"intensity", "colour"}),
    "pcd-ascii": (_ascii_pcd, {"intensity", "colour"}),
    "pcd-compressed": (_compressed_pcd, {"intensity", "colour"}),
    "las": (_las, {"intensity", "colour", "label", "origin"}),
    "bin": (lambda: FOUR.tobytes(), {"intensity"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("from_file", [False, True])
def test_every_format_gives_the_same_points(name: str, from_file: bool, tmp_path: Path) -> None:
    make, extra = FORMATS[name]
    value: Any = make()
    if from_file:
        path = tmp_path / f"scan.{name.partition('-')[0]}"
        path.write_bytes(value)
        value = path
    cloud = read_points(value)
    assert set(cloud) == {"xyz", *extra}
    tolerance = 1.1e-4 if name == "las" else 1e-6
    np.testing.assert_allclose(cloud["xyz"] + cloud.get("origin", 0) - _shift(cloud), XYZ, atol=tolerance)
    assert cloud["xyz"].dtype == np.float32
    if "intensity" in extra:
        np.testing.assert_allclose(cloud["intensity"], INTENSITY, atol=1e-4)
    if "colour" in extra:
        np.testing.assert_allclose(cloud["colour"], COLOUR, atol=1e-4)
    if "label" in extra:
        np.testing.assert_array_equal(cloud["label"], LABEL)


def _shift(cloud: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([500_000.0, 5_000_000.0, 100.0]) if "origin" in cloud else np.zeros(3)


def test_lzf_references_repeat_what_they_write() -> None:
    """A reference of length 10 to a single byte before it: the byte eleven times."""
    packed = bytes([0, 65]) + bytes([7 << 5, 1, 0])  # one plain byte; then 7 + 1 + 2 = 10 bytes from distance 1
    head = b"VERSION 0.7\nFIELDS x y z\nSIZE 1 1 1\nTYPE U U U\nPOINTS %d\nDATA binary_compressed\n"
    short = head % 4 + struct.pack("<II", len(packed), 12) + packed
    with pytest.raises(BadRow, match="becomes 11 bytes instead of 12"):
        read_points(short)
    packed += bytes([0, 66])
    cloud = read_points(head % 4 + struct.pack("<II", len(packed), 12) + packed)
    np.testing.assert_array_equal(cloud["xyz"], [[65, 65, 65], [65, 65, 65], [65, 65, 65], [65, 65, 66]])


def test_sweeps_of_five_numbers_are_told_from_those_of_four(tmp_path: Path) -> None:
    rings = np.column_stack([XYZ, INTENSITY * 255, np.arange(40) % 32]).astype(np.float32)
    for value in (rings.tobytes(), tmp_path / "a.pcd.bin", tmp_path / "a.bin"):
        if isinstance(value, Path):
            value.write_bytes(rings.tobytes())
        np.testing.assert_array_equal(read_points(value)["xyz"], XYZ)
        np.testing.assert_allclose(read_points(value)["intensity"], INTENSITY, atol=1e-6)
    with pytest.raises(BadRow, match="no whole number of points of 4 or 5"):
        read_points(rings.tobytes()[:-4])
    odd = tmp_path / "b.pcd.bin"
    odd.write_bytes(FOUR[:39].tobytes())
    with pytest.raises(BadRow, match="no whole number of points of 5"):
        read_points(odd)


def test_points_without_a_place_are_left_out_and_their_mask_follows() -> None:
    holed = FOUR.copy()
    holed[[0, 7, 39]] = np.nan
    cloud = read_points(holed)
    assert len(cloud["xyz"]) == 37 and int(cloud["total"]) == 40
    mask = read_point_mask(LABEL, cloud)
    np.testing.assert_array_equal(mask, np.delete(LABEL, [0, 7, 39]))
    np.testing.assert_array_equal(read_point_mask(mask, cloud), mask)  # one that already fits
    with pytest.raises(BadRow, match="none of its 3 points has a finite place"):
        read_points(np.full((3, 3), np.nan))


def test_masks_come_as_arrays_npy_label_and_bytes(tmp_path: Path) -> None:
    cloud = read_points(XYZ)
    for value in (LABEL, _npy(LABEL), LABEL.astype(np.uint8).tobytes()):
        np.testing.assert_array_equal(read_point_mask(value, cloud), LABEL)
    raw = np.full(40, 10, dtype=np.uint32) | 77 << 16  # a car, with the number of its instance
    raw[:3] = [252, 0, 71]  # a moving car, nothing, a trunk
    (tmp_path / "0.label").write_bytes(raw.tobytes())
    found = read_point_mask(tmp_path / "0.label", cloud)
    assert found[:4].tolist() == [0, 255, 15, 0]
    with pytest.raises(BadRow, match="has 39 class numbers, its cloud 40 points"):
        read_point_mask(LABEL[1:], cloud)
    with pytest.raises(BadRow, match="holds -1"):
        read_point_mask(np.full(40, -1), cloud)
    with pytest.raises(BadRow, match="one class number a point"):
        read_point_mask(np.ones(40), cloud)


def test_written_ply_is_read_back_with_its_place_on_earth(tmp_path: Path) -> None:
    origin = np.array([500_000.0, 5_000_000.0, 100.0])
    path = write_ply(tmp_path / "a.ply", {"xyz": XYZ, "origin": origin, "label": LABEL})
    cloud = read_points(path)
    np.testing.assert_allclose(cloud["xyz"] + (cloud["origin"] - origin), XYZ, atol=1e-5)
    with pytest.raises(ValueError, match="label must have one value for each of the 40 points"):
        encode_ply({"xyz": XYZ, "label": LABEL[1:]})


def test_what_lies_is_refused_before_anything_is_allocated() -> None:
    many = 2_000_000_000
    lies = {
        "ply": encode_ply({"xyz": XYZ}).replace(b"vertex 40", b"vertex 2000000000"),
        "ply-small": encode_ply({"xyz": XYZ}).replace(b"vertex 40", b"vertex 9000000"),
        "ply-ascii": _ascii_ply().replace(b"vertex 40", b"vertex 9000000"),
        "pcd": _pcd("binary", _pcd_table().tobytes(), many),
        "pcd-small": _pcd("binary", _pcd_table().tobytes(), 9_000_000),
        "pcd-compressed": _pcd("binary_compressed", struct.pack("<II", 4, 9_000_000 * 20) + b"abcd", 9_000_000),
        "npy": _npy(FOUR).replace(b"(40, 4)", b"(9000000, 4)").replace(b" " * 5 + b"\n", b"\n", 1),
    }
    for name, content in lies.items():
        with pytest.raises(BadRow, match=r"limit of|cut short|cannot become"):
            read_points(content)
        assert len(content) < 10_000, name
    with pytest.raises(BadRow, match=r"40 points are more than the limit of 39 \(max_points\)"):
        read_points(XYZ, max_points=39)
    for name in ("npy", "npz", "ply", "pcd", "las", "bin"):
        with pytest.raises(BadRow, match=r"\(max_points\)"):
            read_points(FORMATS[name][0](), max_points=10)


def test_a_zip_bomb_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        header = _npy(np.zeros((0, 3))).replace(b"(0, 3)", b"(200000000, 3)")
        archive.writestr("xyz.npy", header[:128] + bytes(10_000_000))
    with pytest.raises(BadRow, match="limit of"):
        read_points(buffer.getvalue())


def test_nothing_is_unpickled() -> None:
    objects = np.array([{"x": 1}], dtype=object)
    for content in (_npy(objects), _npz(xyz=np.array([[1, 2, 3]], dtype=object))):
        with pytest.raises(BadRow, match="never unpickled"):
            read_points(content)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "empty file"),
        (b"<html>no</html>!", "damaged|not a point cloud|no whole number|more than"),
        (np.ones((3, 2)), "is no point cloud"),
        (np.zeros((0, 3)), "no points"),
        (3.5, "is no point cloud"),
        ("https://example.org/a.ply", "is an address"),
        ({"places": XYZ, "xyz": XYZ[:, :2]}, "is no point cloud"),
        (_npz(places=XYZ), "no array called xyz or points; found: places"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "no field 'y'"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\nhello\n", "a line that is no point"),
        (b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int v\nelement vertex 1\nend_header\n", "lists"),
        (b"ply\nelement vertex 1\nend_header\n", "names no format"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(value: Any, words: str) -> None:
    with pytest.raises(BadRow, match=words) as raised:
        read_points(value)
    assert "\n" not in raised.value.reason


WHOLE = [make() for name, (make, _) in FORMATS.items() if name != "las"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(WHOLE), st.integers(0, 400), st.integers(0, 255), st.integers(0, 900))
def test_damaged_files_are_bad_rows(content: bytes, place: int, byte: int, cut: int) -> None:
    spoiled = bytearray(content[: max(len(content) - cut, 1)])
    spoiled[place % len(spoiled)] = byte
    try:
        cloud = read_points(bytes(spoiled))
    except BadRow as error:
        assert "\n" not in error.reason
        return
    assert np.isfinite(cloud["xyz"]).all() and len(cloud["xyz"])


def test_damaged_las_files_are_bad_rows() -> None:
    content, rng = _las(), np.random.default_rng(0)
    for _ in range(60):
        spoiled = bytearray(content[: int(rng.integers(1, len(content)))] if rng.random() < 0.5 else content)
        for place in rng.integers(0, len(spoiled), 5):
            spoiled[place] = rng.integers(0, 256)
        try:
            cloud = read_points(bytes(spoiled))
        except BadRow as error:
            assert "\n" not in error.reason
        else:
            assert np.isfinite(cloud["xyz"]).all()
