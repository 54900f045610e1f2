"""Natural photographs in one wheel: people, animals, things, textures, space, microscopy (scikit-image).

A fixed list of 19 files that lie in the wheel itself; the package would fetch others from the network. `text`
is a short name written for this library, `kind` is photo, texture or science. No splits: too few to hold any
out. Some are grey. `motorcycle-left` and `motorcycle-right` are a stereo pair, nearly the same picture.
"""

from __future__ import annotations

from counterpoint.data.package_rows import PackageReader
from counterpoint.data.packages import Package, find_package
from counterpoint.data.rows import Rows

SPLITS = ("all",)
NEEDS = (Package("scikit-image", "0.26.0", "skimage"),)
LICENCE = "BSD-3 (the scikit-image package; terms of each picture: its data/README.txt)"

_PICTURES = (
    ("astronaut.png", "an astronaut in an orange suit", "photo"),
    ("camera.png", "a man with a camera on a tripod", "photo"),
    ("chelsea.png", "a ginger cat", "photo"),
    ("coffee.png", "a cup of coffee", "photo"),
    ("rocket.jpg", "a rocket being launched", "photo"),
    ("coins.png", "old coins", "photo"),
    ("clock_motion.png", "a clock blurred by motion", "photo"),
    ("motorcycle_left.png", "a motorcycle in a garage", "photo"),
    ("motorcycle_right.png", "a motorcycle in a garage", "photo"),
    ("page.png", "a page of a book", "photo"),
    ("text.png", "handwriting on a board", "photo"),
    ("brick.png", "a brick wall", "texture"),
    ("grass.png", "grass", "texture"),
    ("gravel.png", "gravel", "texture"),
    ("moon.png", "the surface of the moon", "science"),
    ("hubble_deep_field.jpg", "distant galaxies", "science"),
    ("retina.jpg", "the retina of an eye", "science"),
    ("ihc.png", "stained tissue under a microscope", "science"),
    ("cell.png", "a cell under a microscope", "science"),
)


def rows(split: str) -> Rows:
    """Columns `image` (bytes as stored), `text`, `kind`."""
    files = find_package(NEEDS[0])
    found = [
        {"id": name.partition(".")[0].replace("_", "-"), "image": f"data/{name}", "text": text, "kind": kind}
        for name, text, kind in _PICTURES
    ]
    return Rows(PackageReader(files, found, media="image"), name="photos")
