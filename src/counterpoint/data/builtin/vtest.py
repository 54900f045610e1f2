"""A street in passing, filmed from above: 80 seconds of a surveillance camera, and a tree in the wind.

From the documentation of OpenCV, a system package of Debian and its relatives (`apt-get install opencv-doc`), 96 MB.
`vtest.avi` has 795 frames of 768 x 576 pixels at 10 a second, `tree.avi` 68 of 320 x 240 in 30 s. A row is a piece
of two seconds of `vtest.avi`, or `tree.avi` as a whole; nothing is copied or encoded anew. Columns:
    video: {"path", "start", "stop"}: the piece of the film, in seconds.
    text: what is seen, one sentence a film (written for this library).
    film: name of the file.

Splits: train (the first 60 seconds of the street, and the tree), test (the rest of the street), all. No labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from counterpoint.data.packages import SystemPackage, find_package
from counterpoint.data.readers import MemoryReader
from counterpoint.data.rows import Rows

SPLITS = ("train", "test", "all")
NEEDS = (SystemPackage("opencv-doc", "4.6.0", folder="/usr/share/doc/opencv-doc/examples/data"),)
LICENCE = "Apache-2 and BSD (the opencv-doc package)"

_REVISION = 1
_PIECE = 2  # seconds
_STREET = 78  # seconds of whole pieces
_TRAINED = 60  # seconds
_SENTENCES = {"vtest": "people walking across a street, seen from above", "tree": "a tree in the wind"}


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    found = [row for row, part in _pieces() if split in (part, "all")]
    return Rows(MemoryReader(found, identity=f"vtest-{_REVISION}-{split}"), name=f"vtest:{split}")


def _pieces() -> Iterator[tuple[dict[str, Any], str]]:
    """Rows and the split each is in."""
    folder = find_package(NEEDS[0]).folder
    assert folder is not None
    for start in range(0, _STREET, _PIECE):
        piece = {"path": str(folder / "vtest.avi"), "start": float(start), "stop": float(start + _PIECE)}
        row = {"id": f"vtest/{start:02d}", "video": piece, "text": _SENTENCES["vtest"], "film": "vtest"}
        yield row, "train" if start < _TRAINED else "test"
    whole = {"path": str(folder / "tree.avi")}
    yield {"id": "tree", "video": whole, "text": _SENTENCES["tree"], "film": "tree"}, "train"
