"""Short clips that only the order of their frames tells apart: emoji that move over photographs, with sentences.

One emoji moves left, right, up or down, grows, or shrinks over a 64 x 64 piece of a faded photograph that drifts
slowly, as before a camera held by hand. A clip that moves right, played backwards, is a clip that moves left: each
motion has a partner with the same frames in the other order (left and right, up and down, growing and shrinking), and
the two come from one distribution of frames, so nothing but their order says which it is. A clip has an odd number of
frames: the middle frames of equal parts then lie symmetrically, whatever the number of parts, and a clip and its
mirror in time show the same ones. Columns: video: (21, 64, 64, 3) uint8. Composed when the row is read, always alike;
nothing is stored. text: "a red apple moving left". Also the name of the class, and `group`: put `group="group"` into
the loader so that no two clips of a sentence are each other's negatives. label: number of the class, among those that
the split has. picture, motion: the two halves of the sentence.

Splits:
    train (3,600), validation (360), test (480): six pictures with four motions each, 24 classes; other photographs in
        each.
    zero-shot (240): the same pictures with their two other motions, 12 classes that the splits above never show, over
        the photographs of test. Both motions are partners: whoever knows the picture alone is right half of the time.
        "motions:test+zero-shot" asks for both.
    novel (360): six other pictures with all six motions, over the photographs of test.
    all: everything, with all 72 classes.
"""

from __future__ import annotations

import io
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from counterpoint.data.builtin import emoji, photos
from counterpoint.data.images import decode
from counterpoint.data.package_rows import ComposedReader
from counterpoint.data.packages import find_package
from counterpoint.data.readers import digest
from counterpoint.data.rows import Rows

SPLITS = ("train", "validation", "test", "zero-shot", "novel", "all")
NEEDS = (*emoji.NEEDS, *photos.NEEDS)
LICENCE = f"{emoji.LICENCE}; {photos.LICENCE}"

PICTURES = ("dog", "fish", "guitar", "house", "red apple", "umbrella")
NOVEL = ("banana", "bicycle", "bus", "candle", "elephant", "teapot")
PARTNERS = (("moving left", "moving right"), ("moving up", "moving down"), ("growing", "shrinking"))
MOTIONS = tuple(motion for pair in PARTNERS for motion in pair)
COUNTS = {"train": 3600, "validation": 360, "test": 480, "zero-shot": 240, "novel": 360}
FRAMES, SIDE = 21, 64  # of a clip; pixels

_BACKGROUNDS = {
    "train": (
        "astronaut",
        "brick",
        "camera",
        "cell",
        "coins",
        "hubble-deep-field",
        "motorcycle-left",
        "page",
        "rocket",
    ),
    "validation": ("coffee", "gravel", "moon"),
    "test": ("chelsea", "clock-motion", "grass", "ihc", "retina"),
}
_PHOTOGRAPH = 512
"""Longer side that photographs are kept at, in pixels."""
_CONTRAST = 0.4
"""Of the photographs to white: emoji stand out, as they do on the white ground that they are drawn for."""
_DRIFT = 6  # pixels that the photograph drifts at most
_MOVING, _SMALL, _LARGE = (22, 30), (14, 20), (42, 56)  # pixels: a picture that moves; the ends of one that grows
_REACH = 0.15
"""Share of the free way within which a movement begins at one side and ends at the other."""
_REVISION = 1


class _Clip(NamedTuple):
    """Which clip a row is."""

    split: str
    number: int
    picture: str
    motion: str

    @property
    def text(self) -> str:
        return sentence(self.picture, self.motion)


def sentence(picture: str, motion: str) -> str:
    """ "an umbrella growing": the name of a class."""
    return f"{'an' if picture[0] in 'aeiou' else 'a'} {picture} {motion}"


def combinations(split: str) -> tuple[tuple[str, str], ...]:
    """(picture, motion) of every class of a split, in the order of the labels."""
    if split == "novel":
        return tuple((picture, motion) for picture in NOVEL for motion in MOTIONS)
    if split == "all":
        return tuple(pair for part in ("train", "zero-shot", "novel") for pair in combinations(part))
    kept = []
    for place, picture in enumerate(PICTURES):
        held_out = PARTNERS[place % len(PARTNERS)]
        kept += [(picture, motion) for motion in MOTIONS if (motion in held_out) == (split == "zero-shot")]
    return tuple(kept)


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    found = combinations(split)
    reader = _Motions([split] if split != "all" else list(COUNTS), found)
    return Rows(reader, name=f"motions:{split}", class_names=[sentence(*pair) for pair in found])


class _Motions(ComposedReader):
    """Clips that are composed when they are read. Holds names only; pictures are loaded once a process."""

    columns = ("video", "text", "label", "group", "picture", "motion")

    def __init__(self, splits: list[str], classes: tuple[tuple[str, str], ...]) -> None:
        self._versions = [find_package(package).version for package in NEEDS]
        self._labels = {pair: label for label, pair in enumerate(classes)}
        self._clips = []
        for part in splits:
            own = combinations(part)
            self._clips += [_Clip(part, n, *own[n % len(own)]) for n in range(COUNTS[part])]

    def __len__(self) -> int:
        return len(self._clips)

    def row_id(self, index: int) -> str:
        """Split and number."""
        clip = self._clips[index]
        return f"{clip.split}/{clip.number:04d}"

    def words(self, index: int) -> dict[str, Any]:
        """Everything but the clip itself."""
        clip = self._clips[index]
        label = self._labels[clip.picture, clip.motion]
        names = {"text": clip.text, "label": label, "group": clip.text}
        return {"id": self.row_id(index), **names, "picture": clip.picture, "motion": clip.motion}

    def read(self, index: int) -> dict[str, Any]:
        """The row with its clip."""
        return {**self.words(index), "video": compose(self._clips[index])}

    def identity(self) -> str:
        """Over versions and names."""
        return digest(f"motions-{_REVISION}", *self._versions, *(f"{clip}" for clip in self._clips))


def compose(clip: _Clip) -> np.ndarray:
    """(FRAMES, SIDE, SIDE, 3) uint8. The motions that a pair ends with are made backwards."""
    rng = np.random.default_rng([2208, list(COUNTS).index(clip.split), clip.number])
    ground = _drifting(_BACKGROUNDS.get(clip.split, _BACKGROUNDS["test"]), rng)  # (FRAMES, SIDE, SIDE, 3)
    mirrored = bool(rng.random() < 0.5)
    pair = next(pair for pair in PARTNERS if clip.motion in pair)
    boxes = _boxes(PARTNERS.index(pair), rng)  # moving left, moving up, growing
    if clip.motion == pair[1]:
        boxes = boxes[::-1]
    for frame, (left, top, side) in zip(ground, boxes.tolist(), strict=True):
        _paste(frame, *_sized(clip.picture, mirrored, max(1, round(side))), round(left), round(top))
    return ground


def _boxes(axis: int, rng: np.random.Generator) -> np.ndarray:
    """(FRAMES, 3) left, top and side in pixels: moving left (axis 0), moving up (1), growing (2)."""
    time = np.linspace(0.0, 1.0, FRAMES)
    if axis == 2:
        side = rng.integers(_SMALL[0], _SMALL[1] + 1) * (1 - time) + rng.integers(_LARGE[0], _LARGE[1] + 1) * time
        middle = rng.uniform(side.max() / 2, SIDE - side.max() / 2, 2)
        return np.stack([middle[0] - side / 2, middle[1] - side / 2, side], axis=1)
    side = np.full(FRAMES, float(rng.integers(_MOVING[0], _MOVING[1] + 1)))
    free = SIDE - side[0]
    begin, end = 1 - rng.uniform(0, _REACH), rng.uniform(0, _REACH)
    along, across = free * (begin * (1 - time) + end * time), np.full(FRAMES, free * rng.uniform())
    return np.stack([along, across, side] if axis == 0 else [across, along, side], axis=1)


def _drifting(names: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """(FRAMES, SIDE, SIDE, 3) uint8: a piece of a photograph, a third to all of its shorter side, and its drift."""
    photograph = _photographs()[names[rng.integers(len(names))]]
    shorter = min(photograph.size)
    side = int(rng.integers(shorter // 3, shorter + 1))
    left, top = (int(rng.integers(0, edge - side + 1)) for edge in photograph.size)
    wide = SIDE + _DRIFT
    piece = photograph.resize((wide, wide), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = (255 - (255 - np.asarray(piece, dtype=np.float32)) * _CONTRAST).astype(np.uint8)  # (wide, wide, 3)
    ends = rng.uniform(0, _DRIFT, (2, 2))  # where the window begins and ends
    time = np.linspace(0.0, 1.0, FRAMES)[:, None]
    corners = np.rint(ends[0] * (1 - time) + ends[1] * time).astype(int).tolist()
    return np.stack([pixels[y : y + SIDE, x : x + SIDE] for y, x in corners])


def _paste(frame: np.ndarray, colours: np.ndarray, opacity: np.ndarray, left: int, top: int) -> None:
    """Lay an emoji onto a frame (SIDE, SIDE, 3), in place; all of it lies within the frame."""
    side = len(colours)
    ground = frame[top : top + side, left : left + side]
    ground[:] = (ground * (255 - opacity) + colours) // 255


@lru_cache(maxsize=4096)
def _sized(picture: str, mirrored: bool, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours times opacity, rounded (side, side, 3), and opacity (side, side, 1) in [0, 255], both uint16."""
    stamp = _stamps()[picture].resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    if mirrored:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(stamp).astype(np.uint16)  # (side, side, 4)
    return pixels[:, :, :3] * pixels[:, :, 3:] + 127, pixels[:, :, 3:]


@cache
def _stamps() -> dict[str, Image.Image]:
    """Name -> emoji with its transparency."""
    wanted = {*PICTURES, *NOVEL}
    everything = emoji.rows("all")
    places = {text: place for place, text in enumerate(everything.column("text")) if text in wanted}
    return {text: Image.open(io.BytesIO(everything[n]["image"])).convert("RGBA") for text, n in places.items()}


@cache
def _photographs() -> dict[str, Image.Image]:
    """Name -> photograph, made smaller where it is large."""
    found = {}
    for row in photos.rows("all"):
        picture = decode(row["image"], smallest_side=_PHOTOGRAPH)
        picture.thumbnail((_PHOTOGRAPH, _PHOTOGRAPH))
        found[row["id"]] = picture
    return found
