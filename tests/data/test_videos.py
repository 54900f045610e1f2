"""Frames of films by number: every container, odd pictures, broken files, and what it costs to get at them."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterpoint.data import BadRow
from counterpoint.data.film import Film
from counterpoint.data.videos import open_video
from films import film, number_of, numbered, sound

KINDS = [
    ("mp4", "libx264", "yuv420p", {}),
    ("mov", "mjpeg", "yuvj420p", {}),
    ("avi", "mpeg4", "yuv420p", {"bf": "2"}),
    ("webm", "libvpx-vp9", "yuv420p", {}),
    ("matroska", "libx264", "yuv444p", {}),
    ("mpegts", "libx264", "yuv420p", {}),
    ("flv", "libx264", "yuv420p", {}),
    ("h264", "libx264", "yuv420p", {}),
    ("gif", "gif", "rgb8", {}),
]


def _numbers(frames: np.ndarray) -> list[int]:
    return [number_of(frame) for frame in frames]


@pytest.mark.parametrize(("container", "codec", "pixels", "options"), KINDS, ids=[kind[0] for kind in KINDS])
def test_every_frame_is_found_by_its_number(container: str, codec: str, pixels: str, options: dict[str, str]) -> None:
    content = film(numbered(130), container, codec, pixels=pixels, options=options, key_every=20)
    with open_video(content) as video:
        assert (video.frames, video.rate, video.height, video.width) == (130, 25.0, 48, 64)
        for wanted in ([129], [64, 65, 66, 67], [3, 129, 0, 0, 70], list(range(0, 130, 13)), list(range(130))):
            frames = video.read(wanted)
            assert frames.shape == (len(wanted), 48, 64, 3) and frames.dtype == np.uint8
            assert _numbers(frames) == wanted


def test_paths_mappings_and_arrays_are_films_too(tmp_path: Path) -> None:
    frames = numbered(9)
    content = film(frames)
    path = tmp_path / "a film: part 1.mp4"
    path.write_bytes(content)
    for value in (content, path, str(path), {"bytes": content}, {"path": str(path), "bytes": None}, frames):
        with open_video(value) as video:
            assert _numbers(video.read([8, 2])) == [8, 2]


def test_pieces_of_a_film() -> None:
    content = film(numbered(100))
    with open_video({"bytes": content, "start": 1.0, "stop": 2.0}) as video:
        assert video.frames == 25
        assert _numbers(video.read([0, 24, 3])) == [25, 49, 28]
        with pytest.raises(IndexError, match="25 frames"):
            video.read([25])
    with open_video({"bytes": content, "start": 3.0}) as video:
        assert video.frames == 25 and _numbers(video.read([24])) == [99]
    with open_video({"bytes": content, "stop": 99.0}) as video:
        assert video.frames == 100
    for start, stop in ((5.0, None), (2.0, 1.0), ("early", None), (float("nan"), None)):
        with pytest.raises(BadRow, match="seconds"):
            open_video({"bytes": content, "start": start, "stop": stop})


def test_frames_are_made_smaller_never_larger() -> None:
    for value in (film(numbered(4, 50, 70), pixels="yuv444p"), numbered(4, 50, 70)):
        with open_video(value) as video:
            assert video.read([0, 3], smallest_side=25).shape == (2, 25, 35, 3)
            assert _numbers(video.read([0, 3], smallest_side=25)) == [0, 3]
            assert video.read([1], smallest_side=51).shape == (1, 50, 70, 3)
            with pytest.raises(ValueError, match="smallest_side"):
                video.read([1], smallest_side=0)


@pytest.mark.parametrize("pixels", ["yuv420p10le", "gray16le", "bgra", "yuv422p", "gray"])
@pytest.mark.parametrize("size", [(47, 63), (48, 64), (33, 31)])
def test_odd_pixels_and_odd_sizes(pixels: str, size: tuple[int, int]) -> None:
    height, width = size
    with open_video(film(numbered(5, height, width), "matroska", "ffv1", pixels=pixels)) as video:
        frames = video.read(range(5))
        assert frames.shape == (5, height, width, 3)
        assert _numbers(frames) == list(range(5))


def test_transparency_is_laid_on_white() -> None:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 8, 4, "bgra"
        colours = np.zeros((4, 8, 4), dtype=np.uint8)
        colours[:, 4:] = 0, 0, 200, 255  # blue, green, red, opacity
        output.mux(stream.encode(av.VideoFrame.from_ndarray(colours, format="bgra")))
        output.mux(stream.encode())
    with open_video(buffer.getvalue()) as video:
        frame = video.read([0])[0]
    assert (frame[:, :4] == 255).all() and (frame[:, 4:] == (200, 0, 0)).all()


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_films_stand_upright(degrees: int) -> None:
    frames = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    frames[:, :16, :32] = 255  # top left
    with open_video(film(frames, turn=degrees)) as video:
        turned = np.rot90(frames, degrees // 90, axes=(1, 2))
        assert (video.height, video.width) == turned.shape[1:3]
        found = video.read([1])
        assert found.shape[1:] == turned.shape[1:]
        assert np.abs(found[0].astype(int) - turned[0]).mean() < 5
        assert video.read([1], smallest_side=16).shape[1:3] == tuple(side // 2 for side in turned.shape[1:3])


def test_pixels_become_square() -> None:
    with open_video(film(numbered(3), shape=Fraction(3, 2))) as video:
        assert (video.height, video.width) == (48, 96)
        assert _numbers(video.read([2, 1])) == [2, 1]


def test_numbers_are_even_in_time_where_the_rate_varies() -> None:
    """Half of the frames at 25 a second, the other half at 5."""
    times = [*range(0, 20), *range(20, 120, 5)]
    content = film(numbered(40), "matroska", rate=25, times=times)
    with open_video(content) as video:
        shown = _numbers(video.read(range(video.frames)))
        seconds = (np.arange(video.frames) + 0.5) / video.rate
        expected = [int(np.searchsorted(np.array(times) / 25, second, side="right")) - 1 for second in seconds]
    assert shown == expected
    assert video.frames == 116 and video.rate == 25


def test_an_avi_that_leaves_frames_out() -> None:
    times = list(range(0, 90, 6))
    with open_video(film(numbered(15), "avi", "mpeg4", rate=15, times=times)) as video:
        assert video.frames == 15
        assert _numbers(video.read(range(15))) == list(range(15))


def test_a_film_of_one_frame() -> None:
    for container, codec in (("mp4", "libx264"), ("matroska", "ffv1")):
        with open_video(film(numbered(1), container, codec)) as video:
            assert video.frames == 1 and _numbers(video.read([0, 0])) == [0, 0]


def test_sound_beside_the_pictures_changes_nothing() -> None:
    with open_video(film(numbered(7), audio=True)) as video:
        assert video.frames == 7 and _numbers(video.read([6])) == [6]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"\x00" * 5000, "damaged film, or none"),
        (b"<!DOCTYPE html><html>" * 50, "HTML"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:10,\n/etc/passwd\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "damaged film, or none"),
        (sound(), "no moving pictures in it, only audio"),
        (None, "NoneType is no film"),
        (7, "int is no film"),
        ("https://example.org/a.mp4", "address"),
        ("/nowhere/a.mp4", "No such file"),
        (np.zeros((2, 4, 4, 3)), "is no film"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), "is no film"),
        (np.zeros((4, 4, 3), dtype=np.uint8), "is no film"),
    ],
)
def test_what_is_no_film(value: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason) as caught:
        open_video(value)
    assert "\n" not in caught.value.reason
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_a_cover_picture_is_no_film() -> None:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        voice, cover = output.add_stream("aac", rate=16000), output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24")))
        output.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        output.mux(voice.encode(frame))
        output.mux(voice.encode())
    with pytest.raises(BadRow, match="no moving pictures"):
        open_video(buffer.getvalue())


def _quick_start(content: bytes, path: Path) -> bytes:
    """An mp4 whose index comes first, as films on the web have it."""
    import io

    import av

    source = av.open(io.BytesIO(content))
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_films_that_were_cut_short_are_refused(container: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 48, 64, 3), dtype=np.uint8)
    content = film(noise, container, "libx264" if container != "avi" else "mpeg4")
    content = _quick_start(content, tmp_path / "whole") if container == "mp4" else content
    (tmp_path / "a").write_bytes(content[: int(len(content) * share)])
    if share == 0.95 and container == "matroska":  # most of it is there, and nothing says how long it should be
        with open_video(tmp_path / "a") as video:
            assert 90 <= video.frames < 100 and len(video.read([video.frames - 1])) == 1
        return
    with pytest.raises(BadRow, match="cut short|damaged"), open_video(tmp_path / "a") as video:
        video.read(range(video.frames))


def test_a_header_that_promises_too_much_is_refused() -> None:
    content = bytearray(film(numbered(25), "matroska"))
    place = content.index(b"\x44\x89\x88") + 3  # Duration, eight bytes
    assert struct.unpack(">d", content[place : place + 8]) == (1000.0,)
    content[place : place + 8] = struct.pack(">d", 3.6e6)
    with pytest.raises(BadRow, match="the header promises 3600.0 seconds"):
        open_video(bytes(content))


def test_frames_that_would_not_fit_into_memory_are_refused() -> None:
    content = bytearray(film(numbered(3), "avi", "rawvideo", pixels="bgr24"))
    place = content.index(b"strf") + 12
    assert struct.unpack("<ii", content[place : place + 8]) == (64, -48)
    content[place : place + 8] = struct.pack("<ii", 60_000, 50_000)
    with pytest.raises(BadRow, match="max_pixels"):
        open_video(bytes(content))
    with pytest.raises(BadRow, match=r"64 x 48 pixels are more than the limit of 3071 \(max_pixels\)"):
        open_video(film(numbered(3)), max_pixels=3071)
    with pytest.raises(BadRow, match=r"30 frames are more than the limit of 29 \(max_frames\)"):
        open_video(film(numbered(30)), max_frames=29)
    with open_video(film(numbered(3))) as video, pytest.raises(ValueError, match="ask for fewer"):
        video.read([0] * 300_000)


def test_damaged_bytes_never_raise_anything_else() -> None:
    """Bytes are overwritten at random: a film is refused, or has frames of its size."""
    rng = np.random.default_rng(0)
    contents = [film(numbered(30), *kind[:2], pixels=kind[2], options=kind[3]) for kind in KINDS]
    refused = 0
    for case in range(150):
        content = bytearray(contents[case % len(contents)])
        for place in rng.integers(0, len(content), rng.integers(1, 40)).tolist():
            content[place] = int(rng.integers(0, 256))
        try:
            with open_video(bytes(content), max_pixels=10**6, max_frames=10**5) as video:
                wanted = [0, video.frames - 1, video.frames // 2]
                assert video.read(wanted).shape == (3, video.height, video.width, 3)
        except BadRow:
            refused += 1
    assert 10 < refused < 150


def test_wrong_numbers_are_refused() -> None:
    with open_video(film(numbered(3))) as video:
        for wanted in ([3], [-1], [0, 7]):
            with pytest.raises(IndexError, match="3 frames"):
                video.read(wanted)
        with pytest.raises(ValueError, match="empty"):
            video.read([])


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes with a key frame every two seconds."""
    path = tmp_path_factory.mktemp("films") / "long.mp4"
    path.write_bytes(film(numbered(3000, 240, 320), key_every=50, options={"preset": "ultrafast"}))
    return path


def test_only_what_is_needed_is_decoded(long_film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    frames = Film._frames

    def counted(self: Film) -> Iterator[Any]:
        nonlocal decoded
        for found in frames(self):
            decoded += 1
            yield found

    monkeypatch.setattr(Film, "_frames", counted)
    with open_video(long_film) as video:
        assert video.frames == 3000 and decoded <= 3
        for wanted, most in (([2999], 51), ([1500, 1502, 1504], 56), ([100, 900, 1700, 2500], 4 * 51)):
            decoded = 0
            assert _numbers(video.read(wanted)) == wanted
            assert decoded <= most, (wanted, decoded)


def test_memory_does_not_grow_with_the_film(long_film: Path) -> None:
    """All frames together are 690 MB."""
    code = f"""
        import resource, sys
        from counterpoint.data.videos import open_video

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        with open_video({str(long_film)!r}) as video:
            video.read([0])
            before = peak()
            for start in range(0, 2900, 290):
                video.read(range(start, start + 16))
            video.read([0, 2999], smallest_side=64)
        print(peak() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40, "megabytes"
