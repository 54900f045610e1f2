"""2,000 simulated textile textures, 250 x 250: 1,000 sound, 500 with a local, 500 with a global defect.

Classes `global`, `local`, `nominal`. Splits: by a hash of the file name, about 70 % train, 10 % validation,
20 % test. The pictures come from a simulator, not from a camera.
"""

from __future__ import annotations

from counterpoint.data.package_rows import PackageReader
from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

SPLITS = ("train", "validation", "test", "all")
NEEDS = (Package("conformal-clip-data", "0.1.4", "conformal_clip_data"),)
LICENCE = "MIT (the conformal-clip-data package)"

_FOLDER = "data/textile_images/simulated"
_CLASSES = ("global", "local", "nominal")


def rows(split: str) -> Rows:
    """Columns `image` (JPEG bytes) and `label`."""
    files = find_package(NEEDS[0])
    found = []
    for path in files.names(_FOLDER, ".jpg"):
        kind, name = path.split("/")[-2:]
        row_id = f"{kind}/{name.removesuffix('.jpg')}"
        if kind in _CLASSES and split in (
            "all",
            hashed_split(f"textures/{row_id}", train=0.7, validation=0.1),
        ):
            found.append({"id": row_id, "image": path, "label": _CLASSES.index(kind)})
    return Rows(PackageReader(files, found, media="image"), name=f"textures:{split}", class_names=_CLASSES)
