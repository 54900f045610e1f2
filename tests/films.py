"""Films that tests make: what a frame shows tells which one it is."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

__all__ = ["numbered", "film", "number_of", "sound"]


def numbered(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(count, height, width, 3) uint8: grey stripes in a 3 x 4 grid that write each frame's number in twelve bits."""
    frames = np.zeros((count, height, width, 3), dtype=np.uint8)
    for place in range(12):
        row, column = divmod(place, 4)
        rows = slice(row * height // 3, (row + 1) * height // 3)
        columns = slice(column * width // 4, (column + 1) * width // 4)
        bits = (np.arange(count) >> place) & 1
        frames[:, rows, columns] = (50 + 150 * bits)[:, None, None, None]
    return frames


def number_of(frame: np.ndarray) -> int:
    """The number that a frame of `numbered` shows, after any compression."""
    height, width = frame.shape[:2]
    number = 0
    for place in range(12):
        row, column = divmod(place, 4)
        cell = frame[row * height // 3 : (row + 1) * height // 3, column * width // 4 : (column + 1) * width // 4]
        middle = cell[cell.shape[0] // 4 : -(cell.shape[0] // 4) or None, cell.shape[1] // 4 : -(cell.shape[1] // 4)]
        number |= int(middle.mean() > 125) << place
    return number


def film(
    frames: np.ndarray,
    container: str = "mp4",
    codec: str = "libx264",
    *,
    rate: int = 25,
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,
    turn: int = 0,
    key_every: int = 12,
    audio: bool = False,
    shape: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """Frames (T, H, W, 3) uint8 as a file.

    Args:
        frames: what it shows.
        container, codec, pixels: as libav calls them.
        rate: frames a second.
        times: of the frames, in units of 1 / rate; consecutive by default.
        turn: degrees in the display matrix.
        key_every: frames from one key frame to the next.
        audio: with a second of sound.
        shape: of the pixels, width / height.
        options: of the codec.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1
        if shape is not None:
            stream.codec_context.sample_aspect_ratio = shape
        if turn:
            stream.set_display_rotation(turn)
        voice = output.add_stream("aac", rate=16000) if audio else None
        for place, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = place if times is None else times[place]
            frame.time_base = Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if voice is not None:
            _say(output, voice)
    return buffer.getvalue()


def sound(container: str = "mp4") -> bytes:
    """A file with sound only."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        _say(output, output.add_stream("aac", rate=16000))
    return buffer.getvalue()


def _say(output: av.container.OutputContainer, stream: av.AudioStream) -> None:
    tone = np.sin(np.arange(16000) / 20, dtype=np.float32)[None]
    frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
    frame.sample_rate = 16000
    output.mux(stream.encode(frame))
    output.mux(stream.encode())
