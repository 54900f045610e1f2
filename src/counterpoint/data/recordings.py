"""Decode any recording people keep on disk into one channel at the rate asked for, or say in one line why not."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from counterpoint.data.errors import BadRow, DataError
from counterpoint.data.media import media_source

__all__ = ["LONGEST", "decode", "duration", "resample"]

LONGEST = 600.0
"""Seconds of sound that are decoded at once unless more is allowed."""

_RATES = (1_000, 768_000)  # samples a second of a recording, lowest and highest
_CHANNELS = 64
_BLOCK = 2**16  # frames read at once: what many channels may allocate
_MISSING = (0.05, 0.1)  # share of a cut, and seconds, by which a header may be too long
_UNKNOWN = 2**60  # libsndfile's length of a stream whose end it cannot find is above

# Containers that hold sound, by ffmpeg's names: its play lists open further files and addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,aac,ac3,amr,asf,aiff,au,avi,caf,flac,mp3,mpegts,ogg,wav,w64"


class _Sound(NamedTuple):
    """One channel (N,) float32 and its rate."""

    samples: np.ndarray
    rate: int


def decode(
    value: Any, *, rate: int = 16_000, start: float = 0.0, seconds: float | None = None, longest: float = LONGEST
) -> np.ndarray:
    """A recording, or a cut of it, as (N,) float32; full scale is 1, channels are averaged, never normalised.

    Only the cut is decoded: the decoder seeks to `start`. wav (8, 16, 24, 32 bit, float, mu-law ...), flac, ogg and mp3
    are read by libsndfile, what it does not know (m4a, webm, the sound of a clip) by ffmpeg. Of a wav that was cut off
    there is as much as there is.

    Args:
        value: bytes, a path, a mapping with `bytes` or `path`, an array with its rate as (array, rate) or
            {"array": ..., "sampling_rate": ...}: (N,), or two-dimensional with the channels on the shorter side;
            floating, or whole numbers of full scale.
        rate: samples a second of the result.
        start: seconds before the cut.
        seconds: length of the cut, less where the recording ends; None reads to the end.
        longest: seconds at most; what is asked to be longer is refused before it is decoded.

    Raises:
        BadRow: not a recording, damaged, silent for want of samples, too long, or with values that are no numbers.
        ValueError: `rate`, `start`, `seconds` or `longest` out of range.
    """
    if rate < 1 or start < 0 or (seconds is not None and not seconds > 0) or not longest > 0:
        raise ValueError(
            f"rate, seconds and longest must be above 0 and start at least 0; got rate={rate}, start={start}, "
            f"seconds={seconds}, longest={longest}"
        )
    if seconds is not None and seconds > longest:
        raise ValueError(f"seconds={seconds:g} is more than longest={longest:g}")
    sound = _cut(value, start, seconds, longest)
    if not len(sound.samples):
        raise BadRow(f"no sound at {start:g} s" if start else "no sound in it (0 seconds)")
    if not bool(np.isfinite(sound.samples).all()):
        raise BadRow("its samples are not all numbers (NaN or infinity)")
    return resample(sound.samples, sound.rate, rate)


def duration(value: Any) -> float:
    """Seconds of a recording, by its header where that says so; what `decode` takes.

    Raises:
        BadRow: as `decode`; a recording of unknown length that is longer than `LONGEST`.
    """
    array = _array(value)
    if array is not None:
        return len(array.samples) / array.rate
    with _open(value) as file:
        if file is not None and file.frames < _UNKNOWN:
            return file.frames / _checked(file.samplerate, file.channels)
    sound = _cut(value, 0.0, None, LONGEST)
    return len(sound.samples) / sound.rate


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """(N,) at `rate` -> (M,) float32 at `wanted`, M about N * wanted / rate; filtered, so that nothing aliases.

    The ratio is that of whole numbers up to 1,000: exact for usual rates, else off by less than 2e-6.
    """
    from scipy.signal import resample_poly

    if rate == wanted or not len(samples):
        return np.ascontiguousarray(samples, dtype=np.float32)
    ratio = Fraction(wanted, rate).limit_denominator(1000)
    ratio = ratio or Fraction(1, 1000)
    return resample_poly(samples.astype(np.float32), ratio.numerator, ratio.denominator).astype(np.float32)


def _checked(rate: int, channels: int) -> int:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise BadRow(f"{rate} samples a second: between {_RATES[0]} and {_RATES[1]} are read")
    if not 1 <= channels <= _CHANNELS:
        raise BadRow(f"{channels} channels: between 1 and {_CHANNELS} are read")
    return rate


def _too_long(found: float, longest: float) -> BadRow:
    return BadRow(f"{found:.0f} s of sound are more than the limit of {longest:g} (longest)")


def _cut(value: Any, start: float, seconds: float | None, longest: float) -> _Sound:
    array = _array(value)
    if array is not None:
        first = round(start * array.rate)
        last = len(array.samples) if seconds is None else first + math.ceil(seconds * array.rate)
        if min(last, len(array.samples)) - first > longest * array.rate:
            raise _too_long((len(array.samples) - first) / array.rate, longest)
        return _Sound(array.samples[first:last], array.rate)
    with _open(value) as file:
        if file is not None:
            return _read(file, start, seconds, longest)
    return _read_container(media_source(value, "recording"), start, seconds, longest)


def _array(value: Any) -> _Sound | None:
    """The samples of a value that holds an array, one channel."""
    if isinstance(value, Mapping) and value.get("array") is not None:
        value = (value["array"], value.get("sampling_rate"))
    if not (isinstance(value, tuple) and len(value) == 2):
        return None
    samples, rate = np.asarray(value[0]), value[1]
    if not isinstance(rate, int | np.integer):
        raise BadRow(f"an array needs its rate as a whole number (sampling_rate), got {rate!r}")
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise BadRow(f"array of shape {samples.shape} of {samples.dtype} is no recording: give (N,) numbers")
    if samples.dtype.kind in "iu":
        limits = np.iinfo(samples.dtype)
        middle = (limits.max + limits.min + 1) // 2  # 128 for bytes, 0 for signed numbers
        samples = (samples.astype(np.float64) - middle) / ((limits.max - limits.min + 1) // 2)
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinity, which is refused
        return _Sound(samples.astype(np.float32), _checked(int(rate), 1))


class _open:  # noqa: N801 - a context manager used like a function
    """libsndfile's view of a recording, or None where it does not know the format."""

    def __init__(self, value: Any) -> None:
        self._source = media_source(value, "recording")
        self._file: Any = None

    def __enter__(self) -> Any:
        try:
            import soundfile
        except ImportError as error:
            raise DataError("recordings are read with soundfile; get it with: pip install soundfile") from error
        try:
            self._file = soundfile.SoundFile(self._source)
        except Exception:  # noqa: BLE001 - whatever it says, the other decoder is tried next
            return None
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _read(file: Any, start: float, seconds: float | None, longest: float) -> _Sound:
    """A cut by libsndfile, block by block, so that a header's number of frames or channels allocates nothing."""
    rate = _checked(file.samplerate, file.channels)
    first = round(start * rate)
    known = file.frames < _UNKNOWN
    wanted = math.ceil(seconds * rate) if seconds is not None else file.frames - first if known else _UNKNOWN
    if known:
        wanted = min(wanted, file.frames - first)
    if wanted <= 0:
        return _Sound(np.zeros(0, dtype=np.float32), rate)
    if known and wanted > longest * rate:
        raise _too_long(wanted / rate, longest)
    blocks: list[np.ndarray] = []
    found = 0
    try:
        if first:
            file.seek(first)
        while found < wanted:
            block = file.read(min(_BLOCK, wanted - found), dtype="float32", always_2d=True)  # (n, channels)
            if not len(block):
                break
            blocks.append(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
            found += len(block)
            if found > longest * rate:
                raise _too_long(found / rate, longest)
    except BadRow:
        raise
    except Exception as error:  # decoders raise several kinds on damaged bytes: all mean a bad row
        raise BadRow(f"damaged recording: {' '.join(str(error).split()) or type(error).__name__}") from error
    if known and found + _MISSING[1] * rate < (1 - _MISSING[0]) * wanted:
        announced = f"{wanted / rate:.2f} s are announced from {start:g} s on"
        raise BadRow(f"damaged recording: {announced}, {found / rate:.2f} were read")
    return _Sound(np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32), rate)


def _read_container(source: io.BytesIO | Path, start: float, seconds: float | None, longest: float) -> _Sound:
    """A cut by ffmpeg."""
    try:
        import av
    except ImportError:
        raise BadRow("not a wav, flac, ogg or mp3; others are read with PyAV: pip install av") from None
    target = source if isinstance(source, io.BytesIO) else source.open("rb")
    try:
        with target, av.open(target, "r", options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.audio:
                raise BadRow("holds no sound")
            stream = container.streams.audio[0]
            rate = _checked(stream.rate, stream.channels)
            last = math.inf if seconds is None else start + seconds
            if start:
                container.seek(int(start * 1_000_000))
            blocks = list(_pieces(container.decode(stream), rate, start, last, longest))
    except BadRow:
        raise
    except Exception as error:  # as above
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadRow(f"not a recording that can be decoded: {reason}"[:200]) from error
    return _Sound(np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32), rate)


def _pieces(frames: Any, rate: int, start: float, last: float, longest: float) -> Iterator[np.ndarray]:
    """What of each decoded frame lies in the cut, as one channel."""
    import av

    mono = av.AudioResampler(format="flt", layout="mono", rate=rate)
    found, ends = 0, None
    for frame in frames:
        begins = frame.time if frame.time is not None else ends or 0.0  # some containers have no times
        for piece in mono.resample(frame):
            samples = piece.to_ndarray()[0]  # (n,)
            ends = begins + len(samples) / rate
            first = max(0, round((start - begins) * rate))
            stop = len(samples) if ends <= last else max(0, round((last - begins) * rate))
            found += max(0, min(stop, len(samples)) - first)
            if found > longest * rate:
                raise _too_long(found / rate, longest)
            if first < stop:
                yield samples[first:stop]
            begins = ends
        if begins >= last:
            return
