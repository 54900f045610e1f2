"""Class numbers of SemanticKITTI's .label files: many raw ones, some above 255, to the 19 classes that are scored."""

from __future__ import annotations

import numpy as np

__all__ = ["CLASSES", "classes_of_labels"]

CLASSES = [
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
]

_RAW = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
}
"""Raw numbers of each class, moving things with the still ones; all others are not scored."""


def classes_of_labels(labels: np.ndarray, ignored: int) -> np.ndarray:
    """(N,) uint32 as stored -> (N,) int64 places in `CLASSES`, `ignored` for what is not scored.

    The lower 16 bits are the class, the upper ones number the instance.
    """
    table = np.full(2**16, ignored, dtype=np.int64)
    for place, name in enumerate(CLASSES):
        table[list(_RAW[name])] = place
    return table[labels & 0xFFFF]
