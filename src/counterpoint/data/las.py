"""Survey files (las, and laz compressed) through laspy."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from counterpoint.data.errors import BadRow

__all__ = ["read_las"]


def read_las(source: Path | io.BytesIO, max_points: int) -> dict[str, np.ndarray]:
    """`x`, `y`, `z` in the file's unit, and its intensity, colours and classification where they are not all 0.

    Raises:
        BadRow: more than `max_points`, or damaged.
        ImportError: no laspy, or nothing that unpacks laz; says what to install.
    """
    try:
        import laspy
    except ImportError as error:
        raise ImportError("las and laz files need laspy: pip install 'counterpoint[points]'") from error
    file = source if isinstance(source, Path) else io.BytesIO(source.getvalue())
    size = source.stat().st_size if isinstance(source, Path) else len(source.getvalue())
    try:
        with laspy.open(file) as reader:
            header = reader.header
            count = int(header.point_count)
            if count > max_points:
                raise BadRow(f"{count} points are more than the limit of {max_points} (max_points)")
            if header.are_points_compressed:
                if not laspy.LazBackend.detect_available():
                    raise ImportError("laz files need a decompressor: pip install lazrs")
            elif count * header.point_format.size > size:
                raise BadRow(f"cut short: {size} bytes cannot hold {count} points")
            points = reader.read_points(count)
            found = {name: np.asarray(getattr(points, name), dtype=np.float64) for name in "xyz"}
            names = set(points.point_format.dimension_names)
    except (BadRow, ImportError):
        raise
    except Exception as error:  # laspy and its decompressors raise a dozen kinds on damaged bytes: all mean a bad row
        raise BadRow(f"damaged las file: {' '.join(str(error).split())[:160] or type(error).__name__}") from error
    for name in ("intensity", "red", "green", "blue", "classification"):
        if name in names and (values := np.asarray(points[name])).any():
            found[name] = values
    return found
