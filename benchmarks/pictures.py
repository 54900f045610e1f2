"""Photographs as JPEG bytes, and statistics of views by which distributions of crops and colours are compared."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from counterpoint.data import open_rows
from counterpoint.data.images import decode


def jpegs(count: int | None = None) -> list[bytes]:
    """The built-in photographs at their own sizes (300 to 1,400 pixels), in JPEG at quality 90."""
    found = []
    for row in list(open_rows("photos"))[:count]:
        target = io.BytesIO()
        decode(row["image"]).convert("RGB").save(target, "JPEG", quality=90)
        found.append(target.getvalue())
    return found


def ramp(width: int = 640, height: int = 480) -> bytes:
    """A picture whose red is the place across and whose green the place down: a crop of it says where it lies."""
    across = np.tile(np.linspace(0, 255, width), (height, 1))
    down = np.tile(np.linspace(0, 255, height)[:, None], (1, width))
    target = io.BytesIO()
    picture = np.stack([across, down, np.full_like(across, 128)], axis=2)
    Image.fromarray(picture.round().astype(np.uint8)).save(target, "JPEG", quality=100, subsampling=0)
    return target.getvalue()


def where(view: Tensor, mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """Left, top, width and height of a crop of `ramp` as shares of the picture, from (3, s, s) normalised."""
    colours = view * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    across, down = colours[0].mean(0), colours[1].mean(1)  # (s,) each
    reach = len(across) / (len(across) - 1)  # from pixel centres to edges
    width, height = (float(line[-1] - line[0]) * reach for line in (across, down))
    left, top = (float(line.mean()) - size / 2 for line, size in ((across, abs(width)), (down, abs(height))))
    return {"left": left, "top": top, "width": abs(width), "height": abs(height)}


def colours(view: Tensor) -> dict[str, float]:
    """What distortions change in (3, s, s): means, contrast, saturation, sharpness."""
    red, green, blue = view.mean((1, 2)).tolist()
    grey = view.mean(0)
    edges = ((grey[1:] - grey[:-1]).abs().mean() + (grey[:, 1:] - grey[:, :-1]).abs().mean()) / 2
    return {
        "red": red,
        "green": green,
        "blue": blue,
        "contrast": float(grey.std()),
        "saturation": float((view.amax(0) - view.amin(0)).mean()),
        "sharpness": float(edges),
    }


def columns(rows: Sequence[Mapping[str, float]], prefix: str) -> dict[str, np.ndarray]:
    """One array a statistic."""
    return {f"{prefix} {name}": np.array([row[name] for row in rows]) for name in rows[0]}
