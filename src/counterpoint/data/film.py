"""One film file: where its frames lie in time, and how to get at some of them without decoding the rest."""

from __future__ import annotations

import heapq
import io
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from counterpoint.data.errors import BadRow
from counterpoint.data.film_frames import check_size, film_stream, square_pixels, upright
from counterpoint.data.media import head_of, media_source

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

__all__ = ["Film"]

# Containers that hold the pictures themselves. Playlists, scripts and streams over a network name other files.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,live_flv,asf,ogg,ivf,obu,"
    "gif,apng,mjpeg,dv,mxf,nut,rm,wtv,yuv4mpegpipe"
)
_SEEK_BACK = (0.0, 1.0, 8.0)
"""Seconds before the wanted frame from which a key frame is looked for, in turn; after that from the beginning."""

_TAIL = 1.0
"""Seconds at the end of a file in which its last frame is looked for: frames are not stored in the order of showing."""

_PATIENCE = 48
"""Frames that are rather decoded and dropped than sought over."""

_ROUNDING = 0.1
"""Frames by which a stored time may be off: containers count in milliseconds."""

_LATE = 1.5
"""Frames that the last decoded one may lie before the one wanted from it, by rounding of times."""

_REORDERED = 2
"""Places by which a frame of an AVI may be shown earlier than it is stored."""

_RATES = (1e-3, 1000.0)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("films need PyAV: pip install 'counterpoint[video]'") from error
    av.logging.set_level(None)  # what is wrong with a file is said once, by BadRow
    return av


class Film:
    """A file with a stream of pictures.

    Attributes: as of `videos.Video`.

    Raises:
        BadRow: from every method, where the file is damaged.
    """

    def __init__(self, value: Any, max_pixels: int) -> None:
        self._source = media_source(value, "film", "bytes, a path, or an array (T, H, W, 3)")
        self._max_pixels = max_pixels
        try:
            self._open()
            self._measure()
        except BadRow:
            self.close()
            raise
        except Exception as error:  # libav reports damage in a dozen ways: all mean a bad row
            self.close()
            raise BadRow(_reason(error, self._source)) from error

    def close(self) -> None:
        """Let go of the file."""
        container = getattr(self, "_container", None)
        if container is not None:
            container.close()

    def pictures(self, indices: Sequence[int], height: int, width: int) -> Iterator[np.ndarray]:
        """Frames by ascending number, resized: (height, width, 3) uint8 each, upright."""
        try:
            yield from self._pictures(indices, height, width)
        except BadRow:
            raise
        except Exception as error:  # as above
            raise BadRow(_reason(error, self._source)) from error

    def _open(self) -> None:
        self.close()
        if isinstance(self._source, io.BytesIO):
            self._source.seek(0)
        # "file:" keeps a colon in a name from being taken for a protocol
        name: Any = f"file:{self._source}" if isinstance(self._source, Path) else self._source
        options = {"format_whitelist": _FORMATS, "max_pixels": str(self._max_pixels)}
        self._container: InputContainer = _av().open(name, container_options=options, metadata_errors="replace")
        self._stream = film_stream(self._container)
        context = self._stream.codec_context
        context.thread_count = 1  # loader workers are the parallel part, and one thread keeps few frames
        context.options = {"max_pixels": str(self._max_pixels)}

    def _measure(self) -> None:
        """Size, rate and number of frames, each checked against what is in the file."""
        check_size(self._stream.codec_context.width, self._stream.codec_context.height, self._max_pixels)
        self._avi = "avi" in self._container.format.name
        # Streams and frames of a container that was opened anew are gone: none is kept over `_from` and `_last_time`.
        self._start = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        self.rate = self._average_rate()
        self._tick = float(self._stream.time_base or 0) or 1 / self.rate
        self._last = self._last_time()
        promised = self._promised()
        if promised - (self._last + 1 / self.rate - self._start) > max(1.0, 0.2 * promised):
            raise BadRow(
                f"cut short: the header promises {promised:.1f} seconds, "
                f"the last frame is at {self._last - self._start:.1f}"
            )
        found = self._from(self._start)[1]
        if found is None:
            raise BadRow("no frame can be decoded")
        first = found[1]
        self._start = min(max(self._start, found[0]), self._last)
        self.frames = int((self._last - self._start) * self.rate + _ROUNDING) + 1
        self._turns = round(first.rotation / 90) % 4
        stored = square_pixels(first, self._stream)  # height, width as they lie in the file
        check_size(*stored, self._max_pixels)
        self.height, self.width = stored if self._turns % 2 == 0 else stored[::-1]

    def _average_rate(self) -> float:
        """Frames a second, of those that are stored."""
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        entries, length = self._stream.index_entries, self._promised()
        # An AVI may leave frames out: its index has those that are there, and says where the last one lies.
        if self._avi and length and len(entries) > 1:
            first, last = (
                float(entry.timestamp * (self._stream.time_base or 0)) for entry in (entries[0], entries[-1])
            )
            rate = (len(entries) - 1) / (last - first) if 0.9 * length < last - first else rate
        if not _RATES[0] <= rate <= _RATES[1]:
            raise BadRow(f"{rate:g} frames a second: the header is wrong")
        return rate

    def _promised(self) -> float:
        """Seconds that the header says the pictures last; 0 where it does not."""
        if self._stream.duration:
            return float(self._stream.duration * (self._stream.time_base or 0))
        if self._container.duration and len(self._container.streams) == 1:
            return float(self._container.duration / 1_000_000)
        return 0.0

    def _last_time(self) -> float:
        """When the last frame begins, from the end of the file; nothing is decoded."""
        entries = self._stream.index_entries
        size = self._container.size
        if len(entries) and size > 0 and entries[-1].pos + entries[-1].size > size:
            raise BadRow(f"cut short: its last frame ends at byte {entries[-1].pos + entries[-1].size} of {size}")
        length = self._promised() or (self._container.duration or 0) / 1_000_000
        last = self._latest() if length and self._seek(max(self._start, self._start + length - _TAIL)) else None
        if last is None:  # nothing after the seek, or no seek: look at every packet
            self._open()
            last = self._latest()
        if last is None:
            raise BadRow("no frame in it")
        return last

    def _latest(self) -> float | None:
        """The latest time of a packet from here to the end; None when there is none."""
        latest: float | None = None
        expected = self._start
        for packet in self._container.demux(self._stream):
            if not packet.size:  # the end
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            time = stamp * self._tick if stamp is not None else expected
            expected = time + 1 / self.rate
            latest = time if latest is None else max(latest, time)
        return latest

    def _seek(self, time: float) -> bool:
        """Go to a key frame at or before a time; False where the file cannot."""
        try:
            self._container.seek(int(time / self._tick), stream=self._stream)
        except (OSError, ValueError, OverflowError):  # libav's errors are OSErrors
            return False
        return True

    def _frames(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(time, frame) from here to the end, in the order of showing.

        An AVI counts frames as they are stored, and some are shown earlier than others that lie before them: the next
        frame then takes the smallest of the next few times.
        """
        expected = self._start
        times: list[float] = []
        waiting: deque[av.VideoFrame] = deque()
        for frame in self._container.decode(self._stream):
            time = frame.pts * self._tick if frame.pts is not None else expected
            expected = time + 1 / self.rate
            heapq.heappush(times, time)
            waiting.append(frame)
            if len(waiting) > (_REORDERED if self._avi else 0):
                yield heapq.heappop(times), waiting.popleft()
        while waiting:
            yield heapq.heappop(times), waiting.popleft()

    def _pictures(self, indices: Sequence[int], height: int, width: int) -> Iterator[np.ndarray]:
        frames: Iterator[tuple[float, av.VideoFrame]] = iter(())
        shown: tuple[float, av.VideoFrame] | None = None  # the latest frame that began at or before `time`
        coming: tuple[float, av.VideoFrame] | None = None
        patience = float(_PATIENCE)
        drawn: tuple[float, np.ndarray] | None = None
        for index in indices:
            time = self._start + (index + 0.5) / self.rate
            if shown is None or (time - shown[0]) * self.rate > patience:
                before = shown[0] if shown is not None else -np.inf
                frames, coming = self._from(time)
                shown = None
                if coming is not None and coming[0] <= before:  # no key frame in between: seek less eagerly
                    patience *= 2
            while coming is not None and (coming[0] <= time or shown is None):
                shown, coming = coming, next(frames, None)
            if shown is None or (coming is None and (min(time, self._last) - shown[0]) * self.rate > _LATE):
                raise BadRow(f"cut short or damaged: frame {index} of {self.frames} cannot be decoded")
            if drawn is None or drawn[0] != shown[0]:
                drawn = shown[0], upright(shown[1], height, width, self._turns)
            yield drawn[1]

    def _from(self, time: float) -> tuple[Iterator[tuple[float, av.VideoFrame]], tuple[float, av.VideoFrame] | None]:
        """The frames from a key frame at or before a time, and the first of them."""
        for back in _SEEK_BACK:
            if self._seek(max(self._start, time - back)):
                frames = self._frames()
                first = next(frames, None)
                if first is not None and first[1].pts is not None and first[0] <= time + _ROUNDING / self.rate:
                    return frames, first
        self._open()  # anew: some containers cannot seek
        frames = self._frames()
        return frames, next(frames, None)


def _reason(error: Exception, source: Path | io.BytesIO) -> str:
    with suppress(OSError):
        head = head_of(source).lstrip().lower()
        if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"#extm3u")):
            return "HTML, XML or a playlist, not a film"
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return f"damaged film, or none: {text or type(error).__name__}"
