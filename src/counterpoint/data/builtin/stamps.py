"""Tux Paint's stamps: 785 cut-out photographs and drawings with sentences in 78 languages, many of them spoken.

A system package of Debian and its relatives (`apt-get install tuxpaint-stamps-default`), 161 MB. Columns:
    image: PNG, mostly about 130 x 130 pixels; the transparent ground is laid on white when it is decoded.
    mask: PNG of class numbers made from the transparency: 0 ground, 1 the thing; 255 where a picture has none.
    text: a sentence, "A frog."; `language`: of the sentence, as in "de", "pt_BR" or "sr@latin".
    topic: of the 16 folders at the top, such as animals, food or town.
    group: the English sentence. Several pictures share one; put `group="group"` into the loader so that they are never
        each other's negatives. A group never straddles a split.
    audio: Ogg Vorbis of somebody who says what is seen, in the `-spoken` splits only.

Splits, by a hash of the group (about 70 % train, 10 % validation, 20 % test):
    train, validation, test, all: one row a picture, its sentence in English.
    train-captions and so on: one row for each sentence of a picture, in every language that has one.
    train-spoken and so on: one row a recording. Its `text` is the sentence in that language, or in English where
        there is none; the speaker may use other words.
Pictures without a sentence (mirrored ones) and the vector files are left out. Photographs and drawings are mixed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from counterpoint.data.images import IGNORED, decode, encode_png
from counterpoint.data.package_rows import PackageReader
from counterpoint.data.packages import PackageFiles, SystemPackage, find_package
from counterpoint.data.readers import Reader
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

_PARTS = ("train", "validation", "test", "all")
SPLITS = (*_PARTS, *(f"{part}-{kind}" for kind in ("captions", "spoken") for part in _PARTS))
NEEDS = (SystemPackage("tuxpaint-stamps-default", "2022.06.04-1", folder="/usr/share/tuxpaint/stamps"),)
LICENCE = "GPL-2 or later, parts in the public domain (the Tux Paint stamps; who made each: the package's docs)"

_COVERED = 128  # of 255: opacity from which a pixel belongs to the thing
_TRANSLATION = re.compile(r"^([A-Za-z_]+(?:@[a-z]+)?)\.utf8=(.*)$")
_RECORDING = re.compile(r"^(.+)_desc(?:_([A-Za-z_]+))?\.ogg$")


class _Stamps(PackageReader):
    """Pictures of the package with the masks that their transparency makes."""

    def read(self, index: int) -> dict[str, Any]:
        """The row with the picture's bytes, its mask and, where there is one, the recording."""
        row = super().read(index)
        row["mask"] = encode_png(_mask(row["image"]))
        if "audio" in row:
            row["audio"] = self._files.read(row["audio"])
        return row

    def column(self, name: str) -> Iterator[Any]:
        """Values without reading the files, unless they are asked for."""
        return Reader.column(self, name) if name in ("mask", "audio") else iter(super().column(name))


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    part, _, kind = split.partition("-")
    files = find_package(NEEDS[0])
    found = [
        row
        for row in _rows_of(files, kind)
        if part == "all" or hashed_split(f"stamps/{row['group']}", train=0.7, validation=0.1) == part
    ]
    return Rows(_Stamps(files, found, media="image"), name=f"stamps:{split}")


def _rows_of(files: PackageFiles, kind: str) -> Iterator[dict[str, Any]]:
    """Rows with the names of their files: of pictures, of sentences ("captions") or of recordings ("spoken")."""
    names = files.names()
    known = set(names)
    recordings: dict[str, list[tuple[str, str]]] = {}
    for name in names if kind == "spoken" else ():
        if said := _RECORDING.match(name):
            recordings.setdefault(said[1], []).append((said[2] or "en", name))
    for name in names:
        stem = name.removesuffix(".png")
        if stem == name or f"{stem}.txt" not in known:
            continue
        captions = _captions(files.read(f"{stem}.txt"))
        if "en" not in captions:
            continue
        english = captions["en"]
        common = {"image": name, "mask": name, "topic": stem.split("/")[0], "group": english}
        if kind == "captions":
            for language, text in captions.items():
                yield {"id": f"{stem}:{language}", "text": text, "language": language, **common}
        elif kind == "spoken":
            for language, audio in recordings.get(stem, ()):
                text = captions.get(language, english)
                yield {"id": f"{stem}:{language}", "text": text, "language": language, "audio": audio, **common}
        else:
            yield {"id": stem, "text": english, "language": "en", **common}


def _captions(content: bytes) -> dict[str, str]:
    """Language -> sentence: the first line is English, the others are `de.utf8=...`; empty ones are left out."""
    first, *others = content.decode("utf-8-sig", errors="replace").splitlines() or [""]
    found = {"en": first.strip()}
    for line in others:
        if (translated := _TRANSLATION.match(line.strip())) is not None:
            found.setdefault(translated[1], translated[2].strip())
    return {language: text for language, text in found.items() if text}


def _mask(picture: bytes) -> np.ndarray:
    """(H, W) uint8: 1 where a PNG is opaque, 0 where it is not; all 255 where nothing is transparent."""
    decode(picture)  # refuses what is damaged or too large
    with Image.open(io.BytesIO(picture), formats=("PNG",)) as image:
        opacity = np.asarray(image.convert("RGBA"))[:, :, 3]  # (H, W)
    thing = opacity >= _COVERED
    return np.full(thing.shape, IGNORED, dtype=np.uint8) if thing.all() else thing.astype(np.uint8)
