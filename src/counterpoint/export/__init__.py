"""Plain weights for other libraries: `export`, and one file for each format in `formats/`."""

from counterpoint.export.export import export

__all__ = ["export"]
