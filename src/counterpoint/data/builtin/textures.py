"""2,000 simulated textile textures, 250 x 250: 1,000 sound, 500 with a local, 500 with a global defect.

Classes `global`, `local`, `nominal`. Splits: by a hash of the file name, about 70 % train, 10 % validation,
20 % test. As two data sets that differ in one thing, `train-background` and so on hold the sound pictures of a split,
and `train-target` and so on those with a defect. The pictures come from a simulator, not from a camera.
"""

from __future__ import annotations

from counterpoint.data.package_rows import PackageReader
from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

_PARTS = ("train", "validation", "test")
_CLASSES = {"": ("global", "local", "nominal"), "background": ("nominal",), "target": ("global", "local")}
SPLITS = (*_PARTS, "all", *(f"{part}-{kind}" for part in _PARTS for kind in ("background", "target")))
NEEDS = (Package("conformal-clip-data", "0.1.4", "conformal_clip_data"),)
LICENCE = "MIT (the conformal-clip-data package)"

_FOLDER = "data/textile_images/simulated"


def rows(split: str) -> Rows:
    """Columns `image` (JPEG bytes) and `label`."""
    part, _, kind = split.partition("-")
    classes = _CLASSES[kind]
    files = find_package(NEEDS[0])
    found = []
    for path in files.names(_FOLDER, ".jpg"):
        folder, name = path.split("/")[-2:]
        row_id = f"{folder}/{name.removesuffix('.jpg')}"
        if folder in classes and part in (
            "all",
            hashed_split(f"textures/{row_id}", train=0.7, validation=0.1),
        ):
            found.append({"id": row_id, "image": path, "label": classes.index(folder)})
    return Rows(PackageReader(files, found, media="image"), name=f"textures:{split}", class_names=classes)
