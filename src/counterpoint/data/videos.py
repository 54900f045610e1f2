"""Frames of any film people keep on disk, in RGB and upright: found by seeking, a few at a time, never the whole film.

A frame has a number on an even grid in time: frame k is what is on the screen at (k + 1/2) / rate seconds after the
first frame. Where the rate is constant these are the stored frames, one by one; where it varies, evenly spaced numbers
are still evenly spaced in time. (In MPEG program streams, .mpg, libav's times may be off by a few frames after a seek.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from counterpoint.data.errors import BadRow
from counterpoint.data.film import Film
from counterpoint.data.film_frames import check_size

__all__ = ["MAX_FRAMES", "MAX_PIXELS", "Video", "open_video"]

MAX_PIXELS = 8192 * 8192
"""Pixels of a frame that are refused above: twice what 8K has."""

MAX_FRAMES = 4_000_000
"""Frames of a film that are refused above: 37 hours at 30 a second."""

_READ_LIMIT = 2**31
"""Bytes that one call of `read` may return."""


class Video(Protocol):
    """An opened film; a context manager.

    Attributes:
        frames: how many frames there are on the grid: found by looking at the end of the file, not only promised.
        rate: of them, frames per second.
        height, width: upright, with square pixels: the rotation and the pixels' shape are applied.
    """

    frames: int
    rate: float
    height: int
    width: int

    def read(self, indices: Sequence[int], *, smallest_side: int | None = None) -> np.ndarray:
        """Frames by number: (T, H, W, 3) uint8, RGB.

        Args:
            indices: T numbers in [0, frames), in any order; they may repeat.
            smallest_side: frames whose shorter side has more pixels are reduced to this one. Never enlarges.

        Raises:
            IndexError: no such frame.
            BadRow: the frames cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...

    def __enter__(self) -> Video: ...

    def __exit__(self, *error: object) -> None: ...


def open_video(value: Any, *, max_pixels: int = MAX_PIXELS, max_frames: int = MAX_FRAMES) -> Video:
    """Open a film without decoding it.

    Formats: mp4, mov, mkv, webm, avi, mpg, ts, flv, wmv, ogv, gif and the like; containers that only name other
    files (playlists) are not read. Of several pictures streams the one that players show is taken, never a cover
    picture. Transparency is laid on white.

    Args:
        value: bytes, a path, or decoded frames, an array (T, H, W, 3) uint8; or a mapping with `bytes` or `path` (the
            hub's form). A mapping may have `start` and `stop`, in seconds from the first frame: the film is then that
            piece of the file, as if it were cut out.
        max_pixels: width times height of a frame that is refused above.
        max_frames: length that is refused above.

    Raises:
        BadRow: no film, no picture in it, damaged, cut short, too large, or too long; a piece that lies beyond its end.
    """
    video: Video = _Frames(value, max_pixels) if isinstance(value, np.ndarray) else _File(value, max_pixels)
    try:
        if isinstance(value, Mapping):
            video = _piece(video, value.get("start"), value.get("stop"))
        if video.frames > max_frames:
            raise BadRow(f"{video.frames} frames are more than the limit of {max_frames} (max_frames)")
    except BaseException:
        video.close()
        raise
    return video


class _Opened:
    """A context manager over `close`."""

    def close(self) -> None:
        """Let go of the file, where one is open."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Frames(_Opened):
    """Frames that are decoded already, as a film at 25 a second."""

    rate = 25.0

    def __init__(self, array: np.ndarray, max_pixels: int) -> None:
        if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or not array.size:
            raise BadRow(f"array of shape {array.shape} and {array.dtype} is no film: give (T, H, W, 3) uint8")
        self._array = array
        self.frames, self.height, self.width = array.shape[:3]
        check_size(self.width, self.height, max_pixels)

    def read(self, indices: Sequence[int], *, smallest_side: int | None = None) -> np.ndarray:
        """As `Video.read`."""
        _check_indices(indices, self.frames)
        height, width = _reduced(self.height, self.width, smallest_side)
        chosen = self._array[np.asarray(indices, dtype=np.int64)]  # (T, H, W, 3), a copy
        if (height, width) == chosen.shape[1:3]:
            return chosen
        resized = [
            np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0))
            for frame in chosen
        ]
        return np.stack(resized)


class _File(_Opened):
    """A film in a file or in bytes."""

    def __init__(self, value: Any, max_pixels: int) -> None:
        self._film = Film(value, max_pixels)
        self.frames, self.rate = self._film.frames, self._film.rate
        self.height, self.width = self._film.height, self._film.width

    def read(self, indices: Sequence[int], *, smallest_side: int | None = None) -> np.ndarray:
        """As `Video.read`."""
        _check_indices(indices, self.frames)
        height, width = _reduced(self.height, self.width, smallest_side)
        if len(indices) * height * width * 3 > _READ_LIMIT:
            raise ValueError(
                f"{len(indices)} frames of {width} x {height} pixels are more than {_READ_LIMIT} bytes: "
                f"ask for fewer, or give smallest_side"
            )
        order, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        found = np.empty((len(order), height, width, 3), dtype=np.uint8)
        for place, picture in enumerate(self._film.pictures(order.tolist(), height, width)):
            found[place] = picture
        return found if len(order) == len(indices) and (np.diff(places) > 0).all() else found[places]

    def close(self) -> None:
        """Let go of the file."""
        self._film.close()


class _Piece(_Opened):
    """Some consecutive frames of a film."""

    def __init__(self, whole: Video, first: int, frames: int) -> None:
        self._whole, self._first, self.frames = whole, first, frames
        self.rate, self.height, self.width = whole.rate, whole.height, whole.width

    def read(self, indices: Sequence[int], *, smallest_side: int | None = None) -> np.ndarray:
        """As `Video.read`."""
        _check_indices(indices, self.frames)
        return self._whole.read([self._first + index for index in indices], smallest_side=smallest_side)

    def close(self) -> None:
        """Let go of the file."""
        self._whole.close()


def _piece(video: Video, start: Any, stop: Any) -> Video:
    """The frames that begin from `start` on and before `stop`."""
    if start is None and stop is None:
        return video
    try:
        times = float(start or 0.0), float(stop) if stop is not None else video.frames / video.rate
        first, end = (round(time * video.rate) for time in times)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRow(f"start and stop are seconds, got {start!r} and {stop!r}") from error
    first, end = max(first, 0), min(end, video.frames)
    if first >= end:
        raise BadRow(f"no frame from {start} to {stop} seconds: the film has {video.frames / video.rate:.1f}")
    return _Piece(video, first, end - first)


def _check_indices(indices: Sequence[int], frames: int) -> None:
    if not len(indices):
        raise ValueError("indices is empty: name at least one frame")
    if not 0 <= min(indices) <= max(indices) < frames:
        raise IndexError(f"frames {min(indices)} to {max(indices)} of a film with {frames} frames")


def _reduced(height: int, width: int, smallest_side: int | None) -> tuple[int, int]:
    if smallest_side is None or min(height, width) <= smallest_side:
        return height, width
    if smallest_side < 1:
        raise ValueError(f"smallest_side must be at least 1 pixel; got {smallest_side}")
    scale = smallest_side / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
