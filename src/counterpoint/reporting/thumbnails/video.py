"""A film as a strip of a few of its frames."""

from __future__ import annotations

from typing import Any

from PIL import Image

from counterpoint.data.videos import open_video
from counterpoint.views.clip_sampling import evenly_spaced

__all__ = ["thumbnail"]

_FRAMES = 4
_GAP = 2  # pixels between frames


def thumbnail(value: Any, side: int) -> Image.Image:
    """RGB: frames in the middle of equal parts of the film, side by side, at most `side` pixels high."""
    with open_video(value) as video:
        frames = video.read(evenly_spaced(video.frames, _FRAMES).tolist(), smallest_side=side)  # (T, H, W, 3)
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((2 * side, side))
    width, height = pictures[0].size
    strip = Image.new("RGB", (_FRAMES * width + (_FRAMES - 1) * _GAP, height), "white")
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * (width + _GAP), 0))
    return strip
