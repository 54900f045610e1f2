"""From a frame as a film stores it to a picture: RGB, upright, with square pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from counterpoint.data.errors import BadRow

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["check_size", "film_stream", "square_pixels", "upright"]

_PIXEL_SHAPES = (1 / 8, 8.0)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse frames that are empty or too large."""
    if width * height == 0:
        raise BadRow(f"frames without a size, or larger than the limit of {max_pixels} pixels (max_pixels)")
    if width * height > max_pixels:
        raise BadRow(f"{width} x {height} pixels are more than the limit of {max_pixels} (max_pixels)")


def film_stream(container: InputContainer) -> VideoStream:
    """The pictures that a player shows.

    Raises:
        BadRow: there are none.
    """
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not films:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise BadRow(f"no moving pictures in it, only {kinds}")
    chosen = [stream for stream in films if stream.disposition & Disposition.default]
    return (chosen or films)[0]


def square_pixels(frame: av.VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Height and width of a frame once its pixels are square."""
    ratio = float(stream.sample_aspect_ratio or 1)
    if not _PIXEL_SHAPES[0] <= ratio <= _PIXEL_SHAPES[1]:
        ratio = 1.0
    return frame.height, max(1, round(frame.width * ratio))


def upright(frame: av.VideoFrame, height: int, width: int, turns: int) -> np.ndarray:
    """A frame as (height, width, 3) uint8, resized and turned anticlockwise by so many quarters; clear parts are white.

    Raises:
        BadRow: it was decoded from damaged data.
    """
    if frame.is_corrupt:
        raise BadRow("damaged: a frame is built from data that are missing")
    if turns % 2:
        height, width = width, height
    clear = any(component.is_alpha for component in frame.format.components)
    picture = frame.to_ndarray(format="rgba" if clear else "rgb24", width=width, height=height, interpolation="AREA")
    if clear:
        share = picture[:, :, 3:].astype(np.uint16)
        picture = ((picture[:, :, :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
