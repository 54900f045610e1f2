"""Recordings of every form: right, or a bad row in one line, and never more memory than what is asked for."""

from __future__ import annotations

import io
import resource
import struct
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from sounds import FORMATS, encoded, in_container, noise

from counterpoint.data import BadRow
from counterpoint.data.recordings import decode, duration, resample

SECONDS, RATE = 1.5, 48_000
SOUND = noise(SECONDS, RATE)
AT_16K = noise(SECONDS, 16_000)
"""The same sound: its band ends far below both limits."""
LOSSY = {"ogg": 0.3, "opus": 0.3, "mp3": 0.3, "wav-8": 0.05, "wav-mu-law": 0.05}
"""Allowed error as a share of the loudness (noise is hard on them; another sound gives 1.4); elsewhere a hundredth."""


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Away from the ends, where a resampler has half a filter only."""
    size = min(len(found), len(wanted))
    difference = (found[:size] - wanted[:size])[200:-200]
    return float(np.sqrt((difference**2).mean()) / wanted.std())


def _aligned(found: np.ndarray, wanted: np.ndarray) -> float:
    """The error at the best of the shifts of up to 0.1 s that encoders put in front."""
    return min(_error(found[shift:], wanted) for shift in range(0, 1600))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_sounds_the_same(form: str) -> None:
    stereo = np.stack([1.5 * SOUND, 0.5 * SOUND], axis=1)
    content = encoded(stereo, RATE, form)
    found = decode(content)
    assert found.dtype == np.float32 and found.ndim == 1
    assert abs(len(found) - len(AT_16K)) <= 0.12 * 16_000 if form == "mp3" else abs(len(found) - len(AT_16K)) <= 1
    assert _aligned(found, AT_16K) <= LOSSY.get(form, 0.01)
    assert duration(content) == pytest.approx(len(found) / 16_000, abs=1e-3)


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_is_that_part_of_the_whole(form: str, tmp_path: Path) -> None:
    (tmp_path / "sound").write_bytes(encoded(SOUND, RATE, form))
    whole, cut = decode(tmp_path / "sound"), decode(tmp_path / "sound", start=0.5, seconds=0.25)
    assert len(cut) == 4000
    np.testing.assert_allclose(cut[100:-100], whole[8100:11900], atol=2e-3)
    last = decode(tmp_path / "sound", start=1.0, seconds=30.0)
    assert abs(len(last) - (len(whole) - 16_000)) <= 1


@pytest.mark.parametrize(("codec", "container", "rate"), [("aac", "mp4", 44_100), ("libopus", "webm", 48_000)])
def test_containers_of_film(codec: str, container: str, rate: int) -> None:
    content = in_container(noise(SECONDS, rate), rate, codec, container)
    found = decode(content)
    assert _aligned(found, AT_16K) <= 0.5  # as above
    assert duration(content) == pytest.approx(SECONDS, abs=0.1)
    cut = decode(content, start=0.5, seconds=0.25)
    assert abs(len(cut) - 4000) <= 16
    shifts = [_error(cut, found[8000 + shift :]) for shift in range(-32, 33)]
    assert min(shifts) < 0.35 and abs(int(np.argmin(shifts)) - 32) <= 16, "more than a thousandth of a second off"


def test_arrays() -> None:
    for array, wanted in (
        (AT_16K, AT_16K),
        (np.stack([AT_16K, AT_16K], axis=1), AT_16K),
        (np.stack([2 * AT_16K, 0 * AT_16K]), AT_16K),
        ((AT_16K * 32767).astype(np.int16), AT_16K),
        ((np.round(AT_16K * 127) + 128).astype(np.uint8), AT_16K),
        ((AT_16K * 2**31).astype(np.int32), AT_16K),
    ):
        for value in ((array, 16_000), {"array": array, "sampling_rate": 16_000}):
            assert _error(decode(value), wanted) < 0.05
            assert duration(value) == SECONDS
    np.testing.assert_allclose(decode((AT_16K, 16_000), start=0.5, seconds=0.25), AT_16K[8000:12_000], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((np.zeros(0), 8000), "no sound"),
        ((np.full(99, np.nan), 8000), "not all numbers"),
        ((np.full(99, 1e300), 8000), "not all numbers"),
        ((np.zeros(9), 8000.5), "whole number"),
        ((np.zeros(9), None), "whole number"),
        ((np.zeros(9), 10), "10 samples a second"),
        ((np.zeros((2, 2, 2)), 8000), "shape"),
        ((np.array(["a"]), 8000), "is no recording"),
        ((np.zeros(8000 * 700), 8000), "more than the limit of 600"),
        (b"hello", "not a recording that can be decoded"),
        (b"<html>nothing here</html>", "not a recording that can be decoded"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://localhost:1/x.wav\n", "not a recording that can be decoded"),
        (b"ffconcat version 1.0\nfile other.wav\n", "not a recording that can be decoded"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a recording that can be decoded"),
        (encoded(np.zeros((0, 1)), 8000, "wav-16"), "no sound in it"),
        (encoded(SOUND * np.nan, RATE, "wav-float"), "not all numbers"),
    ],
)
def test_what_is_no_recording_is_one_bad_row(value: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason) as raised:
        decode(value)
    assert "\n" not in raised.value.reason and len(raised.value.reason) < 220


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_are_right_or_a_bad_row(form: str) -> None:
    content = encoded(SOUND, RATE, form)
    rng = np.random.default_rng(0)
    spoilt = [content[: int(share * len(content))] for share in (0.001, 0.01, 0.3, 0.6, 0.99)]
    for _ in range(20):
        copy = bytearray(content)
        for place in rng.integers(0, len(copy), 8):
            copy[place] = rng.integers(256)
        spoilt.append(bytes(copy))
    for damaged in spoilt:
        for cut in ({}, {"start": 0.7, "seconds": 0.5}):
            try:
                found = decode(damaged, **cut)
            except BadRow as error:
                assert "\n" not in error.reason
            else:
                assert found.dtype == np.float32 and np.isfinite(found).all() and 0 < len(found) < 16_000 * 100


def _lying_wav(announced: int, samples: int, *, rate: int = 8000, channels: int = 1) -> bytes:
    """A header of so many bytes, and fewer behind it."""
    header = struct.pack("<IHHIIHH", 16, 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    start = b"RIFF" + struct.pack("<I", min(announced + 36, 2**32 - 1)) + b"WAVEfmt " + header + b"data"
    return start + struct.pack("<I", announced) + b"\1\2" * samples * channels


def test_lying_headers_allocate_nothing() -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert len(decode(_lying_wav(2**32 - 100, 8000), rate=8000)) == 8000
    with pytest.raises(BadRow, match="no sound"):
        decode(_lying_wav(2**32 - 100, 0))
    with pytest.raises(BadRow, match="samples a second|can be decoded"):
        decode(_lying_wav(1000, 500, rate=2**31 - 1))
    with pytest.raises(BadRow, match="channels|can be decoded"):
        decode(_lying_wav(2000 * 500, 5, channels=1000))
    assert time.monotonic() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_ten_hours_are_refused_whole_and_read_in_parts(tmp_path: Path) -> None:
    path, hours = tmp_path / "long.wav", 10
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 100)
    with path.open("r+b") as file:  # a sparse file with the right header
        size = 2 * 8000 * 3600 * hours
        file.truncate(44 + size)
        file.seek(4)
        file.write(struct.pack("<I", 36 + size))
        file.seek(40)
        file.write(struct.pack("<I", size))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert duration(path) == 3600 * hours
    with pytest.raises(BadRow, match="36000 s of sound are more than the limit of 600"):
        decode(path)
    assert len(decode(path, start=20_000.0, seconds=2.0)) == 32_000
    assert time.monotonic() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_a_start_behind_the_end() -> None:
    with pytest.raises(BadRow, match="no sound at 5 s"):
        decode(encoded(SOUND, RATE, "wav-16"), start=5.0)


def test_arguments_are_named() -> None:
    for wrong in ({"rate": 0}, {"start": -1.0}, {"seconds": 0.0}, {"longest": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            decode((AT_16K, 16_000), **wrong)
    with pytest.raises(ValueError, match="seconds=700 is more than longest=600"):
        decode((AT_16K, 16_000), seconds=700.0)


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from counterpoint.data import DataError

    content = encoded(SOUND, RATE, "wav-16")
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(decode(content)) == 24_000
    with pytest.raises(BadRow, match="pip install av"):
        decode(b"hello")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match="pip install soundfile"):
        decode(content)


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (8000, 16_000), (16_000, 8000), (11_025, 16_000)])
def test_resampling_keeps_what_both_rates_can_hold(rate: int, wanted: int) -> None:
    found = resample(noise(1.0, rate), rate, wanted)
    assert len(found) == wanted and _error(found, noise(1.0, wanted)) < 0.01


def test_resampling_does_not_alias() -> None:
    high = np.sin(2 * np.pi * 6000 * np.arange(16_000) / 16_000)
    assert np.abs(resample(high, 16_000, 8000)[200:-200]).max() < 0.01


def test_odd_rates_are_read_at_nearly_their_speed() -> None:
    found = resample(np.zeros(44_099 * 60), 44_099, 16_000)
    assert abs(len(found) - 16_000 * 60) <= 4


def test_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, SOUND, RATE)
    with path.open("rb") as file:
        assert isinstance(io.BytesIO(file.read()), io.BytesIO)
    for _ in range(3000):  # more than a process may have open
        duration(path)
