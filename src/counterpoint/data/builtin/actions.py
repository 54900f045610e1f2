"""Films of a thing that moves, for learning how things move: emoji before fixed cameras that are out of focus.

One emoji moves left, right, up or down, or goes round clockwise or anticlockwise, in a 40 x 40 film of 24 frames.
Behind it a photograph, blurred to a few patches of colour, sways a little. Training has three such places and six such
things, as many cameras see the same few over and over: what tells one film from the next is how its thing moves. A film
that goes right, run backwards, is one that goes left; the two show the same frames, and so do the two ways round: only
their order tells them apart. Columns:
    video: (24, 40, 40, 3) uint8. Composed when the row is read, always alike; nothing is stored.
    label: of the motion, one of six.
    picture: name of the emoji.

Splits: train (3,000), validation (600), test (900). Validation and test have other photographs and other emoji, dozens
of them: whoever is tested meets things that were never seen to move.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from counterpoint.data.builtin import emoji, photos
from counterpoint.data.images import decode
from counterpoint.data.package_rows import ComposedReader
from counterpoint.data.packages import find_package
from counterpoint.data.readers import digest
from counterpoint.data.rows import Rows

SPLITS = ("train", "validation", "test", "all")
NEEDS = (*emoji.NEEDS, *photos.NEEDS)
LICENCE = f"{emoji.LICENCE}; {photos.LICENCE}"

MOTIONS = ("anticlockwise", "clockwise", "down", "left", "right", "up")
COUNTS = {"train": 3000, "validation": 600, "test": 900}
FRAMES, SIDE = 24, 40  # frames a film; pixels

_PICTURES = ("bicycle", "bus", "camera", "dog", "fish", "guitar")
"""That move in train. In validation and test all of the emoji set's splits of these names do."""
_BACKGROUNDS = {
    "train": ("astronaut", "motorcycle-left", "rocket"),
    "validation": ("coffee", "gravel", "moon"),
    "test": ("chelsea", "clock-motion", "grass", "ihc", "retina"),
}
_BLUR = 4
"""Patches of colour along a side of the background."""
_DRIFT = 8  # pixels that the background moves at most
_SIZES = (16, 22)  # pixels
_REACH = 0.2
"""Share of the free way within which a movement begins at one side and ends at the other."""
_TURNS, _RADII = (0.9, 1.5), (6.0, 9.0)  # rounds a film; pixels
_REVISION = 1


class _Film(NamedTuple):
    """Which film a row is."""

    split: str
    number: int

    @property
    def motion(self) -> str:
        return MOTIONS[self.number % len(MOTIONS)]


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    return Rows(
        _Actions([split] if split != "all" else list(COUNTS)), name=f"actions:{split}", class_names=list(MOTIONS)
    )


class _Actions(ComposedReader):
    """Films that are composed when they are read. Holds names only; pictures are loaded once a process."""

    columns = ("video", "label", "picture")

    def __init__(self, splits: list[str]) -> None:
        self._versions = [find_package(package).version for package in NEEDS]
        self._films = [_Film(part, number) for part in splits for number in range(COUNTS[part])]

    def __len__(self) -> int:
        return len(self._films)

    def row_id(self, index: int) -> str:
        """Split and number."""
        return f"{self._films[index].split}/{self._films[index].number:04d}"

    def words(self, index: int) -> dict[str, Any]:
        """Everything but the film itself."""
        film = self._films[index]
        rng = _rng(film)
        names = list(_stamps(film.split))
        picture = names[int(rng.integers(len(names)))]
        return {"id": self.row_id(index), "label": MOTIONS.index(film.motion), "picture": picture}

    def read(self, index: int) -> dict[str, Any]:
        """The row with its film."""
        found = self.words(index)
        return {**found, "video": compose(self._films[index], found["picture"])}

    def identity(self) -> str:
        """Over versions and names."""
        return digest(f"actions-{_REVISION}", *self._versions, *(f"{film}" for film in self._films))


def _rng(film: _Film) -> np.random.Generator:
    return np.random.default_rng([2008, list(COUNTS).index(film.split), film.number])


def compose(film: _Film, picture: str) -> np.ndarray:
    """(FRAMES, SIDE, SIDE, 3) uint8. What goes right, up or clockwise is made backwards."""
    rng = _rng(film)
    rng.random()  # the draw that chose the picture
    names = _BACKGROUNDS[film.split]
    frames = _swaying(names[int(rng.integers(len(names)))], rng)  # (FRAMES, SIDE, SIDE, 3)
    size = int(rng.integers(_SIZES[0], _SIZES[1] + 1))
    stamp = _stamps(film.split)[picture].resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if rng.random() < 0.5:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(stamp).astype(np.float32)
    colours, opacity = pixels[..., :3], pixels[..., 3:] / 255  # (size, size, 3) and (size, size, 1)
    for frame, (left, top) in zip(frames, _path(film.motion, SIDE - size, rng).tolist(), strict=True):
        place = frame[top : top + size, left : left + size]
        place += ((colours - place) * opacity).astype(np.int16)
    return frames.astype(np.uint8)


def _path(motion: str, free: int, rng: np.random.Generator) -> np.ndarray:
    """(FRAMES, 2) left and top in whole pixels, between 0 and `free`."""
    time = np.linspace(0.0, 1.0, FRAMES)
    if motion in ("clockwise", "anticlockwise"):
        radius = min(rng.uniform(*_RADII), free / 2)
        centre = rng.uniform(radius, free - radius, 2)
        angle = 2 * np.pi * (rng.random() + rng.uniform(*_TURNS) * time)
        path = centre + radius * np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    else:
        begin, end = 1 - rng.uniform(0, _REACH), rng.uniform(0, _REACH)
        along, across = free * (begin * (1 - time) + end * time), np.full(FRAMES, free * rng.uniform())
        path = np.stack([along, across] if motion in ("left", "right") else [across, along], axis=1)
    backwards = motion in ("right", "down", "clockwise")
    return np.rint(path[::-1] if backwards else path).astype(int).clip(0, free)


def _swaying(name: str, rng: np.random.Generator) -> np.ndarray:
    """(FRAMES, SIDE, SIDE, 3) int16: the colours in the middle of a photograph, and how the camera sways."""
    piece = ImageOps.fit(_photographs()[name], (_BLUR, _BLUR), Image.Resampling.BOX)
    wide = SIDE + _DRIFT
    pixels = np.asarray(piece.resize((wide, wide), Image.Resampling.BICUBIC)).astype(np.int16)
    ends = rng.uniform(0, _DRIFT, (2, 2))  # where the window begins and ends
    time = np.linspace(0.0, 1.0, FRAMES)[:, None]
    corners = np.rint(ends[0] * (1 - time) + ends[1] * time).astype(int).tolist()
    return np.stack([pixels[y : y + SIDE, x : x + SIDE] for y, x in corners])


@cache
def _stamps(split: str) -> dict[str, Image.Image]:
    """Name -> emoji with its transparency."""
    everything = emoji.rows("all" if split == "train" else split)
    places = {text: place for place, text in enumerate(everything.column("text"))}
    wanted = _PICTURES if split == "train" else sorted(set(places) - set(_PICTURES))
    return {name: Image.open(io.BytesIO(everything[places[name]]["image"])).convert("RGBA") for name in wanted}


@cache
def _photographs() -> dict[str, Image.Image]:
    """Name -> photograph, a sixteenth of its pixels: what is out of focus needs no more."""
    found = {}
    for row in photos.rows("all"):
        picture = decode(row["image"], smallest_side=64)
        picture.thumbnail((96, 96))
        found[row["id"]] = picture
    return found
