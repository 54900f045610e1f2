"""Point encoders: points are gathered into voxels, and a small 3-D U-Net makes features of every place.

The convolutions are dense. Of the libraries for sparse ones (spconv, torchsparse, MinkowskiEngine) only spconv installs
from PyPI (2.3.8, the wheel without CUDA), and that computes on a CPU forwards but not backwards.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from counterpoint.encoders import assets
from counterpoint.encoders.base import Encoder, Trainable
from counterpoint.encoders.names import ModelName, parse_name, unknown_model
from counterpoint.encoders.weights import load_weights

__all__ = ["Grid", "PointEncoder"]

_SCHEMES = ("run",)
_OPTIONS = ("range", "cell", "features", "levels")
_CHANNELS = {"intensity": 1, "colour": 3}
_DEFAULTS = {"range": "-25.6,-25.6,-2,25.6,25.6,4.4", "cell": "0.4", "features": "", "levels": "3"}
_LARGEST = 2**24
"""Cells of a grid above which a name is refused: a volume of 16 channels is then 1 GiB."""


class Grid(NamedTuple):
    """The box that is voxelised.

    Attributes:
        low, high: its corners, metres; x forward, y left, z up.
        cell: side lengths of a cell, metres.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    cell: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along z, y, x."""
        x, y, z = (
            math.ceil((high - low) / cell - 1e-6)
            for low, high, cell in zip(self.low, self.high, self.cell, strict=True)
        )
        return z, y, x


class PointEncoder(Encoder):
    """Voxel features from a 3-D U-Net with skip connections.

    Every point becomes a vector (place within its cell, height, intensity and colour where asked for), a linear layer
    is averaged over the points of a cell, and convolutions do the rest. Normalisation is GroupNorm, each cloud by
    itself: neither padding nor the other clouds of a batch change a vector.

    A batch of clouds is a mapping: `xyz` (B, N, 3) in metres, `valid` (B, N) of bool, False at padding, and `features`
    (B, N, F) in [0, 1] with the channels of `features` in order (may be left out where there are none).

    Args:
        name: `voxelC` (fresh weights, C channels at the finest level, twice as many at each coarser one), or `run:PATH`
            (the point encoder of a counterpoint run). Options of `voxelC`: `range=X0,Y0,Z0,X1,Y1,Z1` in metres (or
            `range=R,Z0,Z1` for a square of half width R), `cell=0.4` (or three numbers), `features=intensity`,
            `features=colour` or `features=intensity+colour`, `levels=3`.
        trainable: "all", "none", "last:N" levels, "head" (the last layer), or parameter-name prefixes.

    Attributes:
        dim: channels of the volume, and length of the pooled vector.
        grid: the box that is voxelised.
        features: names of the channels that points have besides their place.

    Raises:
        ValueError: no such network, an option out of range, or weights that cannot be had.
    """

    kind: ClassVar[str] = "points"

    def __init__(self, name: str, *, trainable: Trainable = "all") -> None:
        super().__init__(name)
        weights: dict[str, Tensor] | None = None
        asset = assets.find(self.kind, name)
        if asset is not None:
            config = asset.config
        else:
            parsed = parse_name(name, _SCHEMES, _OPTIONS)
            if parsed.scheme == "run":
                if parsed.options:
                    raise ValueError(f"{name!r}: a run keeps the options it was trained with; leave them out")
                found = assets.of_run(parsed.rest, self.kind)
                config, weights = found.config, assets.run_weights(parsed.rest, found)
            else:
                config = _config(parsed)
        self.width: int = config["width"]
        self.levels: int = config["levels"]
        self.features: tuple[str, ...] = tuple(config["features"])
        self.grid = Grid(*(tuple(config[part]) for part in ("low", "high", "cell")))
        self.dim = self.width
        self._build()
        if weights is not None:
            load_weights(self, weights, name)
        self.freeze(trainable)

    def _build(self) -> None:
        widths = [self.width * 2**level for level in range(self.levels)]
        inputs = 4 + sum(_CHANNELS[feature] for feature in self.features)
        self.point = nn.Sequential(nn.Linear(inputs, self.width), nn.LayerNorm(self.width), nn.ReLU())
        self.enter = _block(self.width + 1, self.width)
        self.down = nn.ModuleList(
            nn.Sequential(_block(fine, coarse, stride=2), _block(coarse, coarse))
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(
            _Up(fine, coarse) for fine, coarse in reversed(list(zip(widths, widths[1:], strict=False)))
        )
        self.last = nn.Conv3d(self.width, self.dim, 1)

    def volume(self, points: Mapping[str, Tensor]) -> Tensor:
        """A batch of clouds -> (B, C, Z, Y, X) features of all places, not normalised; empty ones have some too.

        Points beyond the grid are left out.

        Raises:
            ValueError: shapes that do not fit, or channels that are missing; names them.
        """
        cells = self.enter(self._voxels(points))  # (B, C, Z, Y, X)
        skips = []
        for down in self.down:
            skips.append(cells)
            cells = down(cells)
        for up in self.up:
            cells = up(skips.pop(), cells)
        return self.last(cells)

    def at(self, volume: Tensor, xyz: Tensor) -> Tensor:
        """(B, C, Z, Y, X), (B, N, 3) in metres -> (B, N, C), trilinear between centres of cells.

        Beyond the outermost centres the outermost value is kept. Rows of padding come with some value: mask them.
        Differentiable once in `volume` and in `xyz` (torch has no second derivative of 3-D sampling).
        """
        if volume.dim() != 5 or xyz.dim() != 3 or xyz.shape[2] != 3 or len(volume) != len(xyz):
            raise ValueError(
                f"volume is {tuple(volume.shape)}, xyz {tuple(xyz.shape)}: give (B, C, Z, Y, X), (B, N, 3)"
            )
        low, cell = xyz.new_tensor(self.grid.low), xyz.new_tensor(self.grid.cell)
        sizes = xyz.new_tensor(self.grid.shape[::-1])  # X, Y, Z: the order of x, y, z in a point
        place = 2 * (xyz - low) / (cell * sizes) - 1  # -1 and 1 are the faces of the grid
        exact = torch.promote_types(volume.dtype, torch.float32)  # places have no room in 8 bits
        sampled = nn.functional.grid_sample(
            volume.to(exact), place[:, :, None, None].to(exact), padding_mode="border", align_corners=False
        )  # (B, C, N, 1, 1)
        return sampled.flatten(2).transpose(1, 2)

    def per_point(self, points: Mapping[str, Tensor]) -> Tensor:
        """A batch of clouds -> (B, N, C) features of its points, zero at padding."""
        found = self.at(self.volume(points), points["xyz"])
        return torch.where(points["valid"].unsqueeze(2), found, 0)

    def forward(self, points: Mapping[str, Tensor]) -> Tensor:
        """A batch of clouds -> (B, dim): mean over the points of each, not normalised."""
        found = self.per_point(points)  # (B, N, dim), zero at padding
        return found.sum(dim=1) / points["valid"].sum(dim=1, keepdim=True).clamp(min=1)

    def _voxels(self, points: Mapping[str, Tensor]) -> Tensor:
        """(B, C + 1, Z, Y, X): mean over the points of a cell of a linear layer, and the logarithm of their number."""
        xyz, valid, extra = self._checked(points)
        low, cell = xyz.new_tensor(self.grid.low), xyz.new_tensor(self.grid.cell)
        shape = self.grid.shape
        scaled = (xyz - low) / cell  # (B, N, 3)
        index = scaled.floor()
        inside = valid & ((index >= 0) & (index < xyz.new_tensor(shape[::-1]))).all(dim=2)  # (B, N)
        height = (xyz[..., 2:] - low[2]) / (self.grid.high[2] - self.grid.low[2])
        described = torch.cat([scaled - index - 0.5, height, extra], dim=2)[inside]  # (P, F), P over all clouds
        batch, x, y, z = inside.nonzero()[:, 0], *index[inside].long().unbind(1)
        flat = ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x  # (P,)
        values = self.point(described)
        values = values.to(torch.promote_types(values.dtype, torch.float32))  # sums and counts of many
        values = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)  # (P, C + 1)
        sums = values.new_zeros(len(xyz) * math.prod(shape), values.shape[1]).index_add_(0, flat, values)
        counts = sums[:, -1:]
        means = torch.cat([sums[:, :-1] / counts.clamp(min=1), counts.log1p()], dim=1)
        return means.unflatten(0, (len(xyz), *shape)).permute(0, 4, 1, 2, 3)

    def _checked(self, points: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        xyz, valid = points["xyz"], points["valid"]
        if xyz.dim() != 3 or xyz.shape[2] != 3 or valid.shape != xyz.shape[:2]:
            raise ValueError(
                f"points: xyz must be (B, N, 3), valid (B, N); got {tuple(xyz.shape)}, {tuple(valid.shape)}"
            )
        wanted = sum(_CHANNELS[feature] for feature in self.features)
        extra = points["features"] if wanted else xyz[..., :0]
        if extra.shape != (*xyz.shape[:2], wanted):
            names = ", ".join(self.features)
            raise ValueError(f"points: features must be (B, N, {wanted}) for {names}; got {tuple(extra.shape)}")
        weight = self.last.weight.dtype
        return xyz.to(weight), valid, extra.to(weight)

    def head_parameters(self) -> list[str]:
        """The last layer."""
        return [name for name, _ in self.named_parameters() if name.startswith("last.")]

    def blocks(self) -> list[list[str]]:
        """Levels on the way down, then those on the way up."""
        names = [name for name, _ in self.named_parameters()]
        parts = [f"{part}.{level}." for part in ("down", "up") for level in range(self.levels - 1)]
        return [[name for name in names if name.startswith(part)] for part in parts]

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Sizes, box and channels."""
        return {
            "width": self.width,
            "levels": self.levels,
            "features": list(self.features),
            "low": list(self.grid.low),
            "high": list(self.grid.high),
            "cell": list(self.grid.cell),
        }


class _Up(nn.Module):
    """A finer volume with what the coarser one adds to it; channels are made fewer before the volume is made larger."""

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.reduce, self.join = nn.Conv3d(coarse, fine, 1), _block(fine, fine)

    def forward(self, skip: Tensor, cells: Tensor) -> Tensor:
        return self.join(skip + nn.functional.interpolate(self.reduce(cells), size=skip.shape[2:], mode="nearest"))


def _block(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """3 x 3 x 3 convolution, GroupNorm, ReLU."""
    groups = math.gcd(outputs, 8)
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.GroupNorm(groups, outputs), nn.ReLU()
    )


def _config(name: ModelName) -> dict[str, Any]:
    """Sizes, box and channels of a `voxelC` with options."""
    found = re.fullmatch(r"voxel([1-9]\d{0,3})", name.rest)
    if found is None:
        raise unknown_model("point encoder", name.rest, ["voxel8", "voxel16", "voxel32", "voxel64"])
    low, high = _range(name)
    cell = _numbers(name, "cell")
    cell = cell * 3 if len(cell) == 1 else cell
    if len(cell) != 3 or min(cell) <= 0:
        raise ValueError(f"{name.full!r}: option cell must be one or three lengths above 0, in metres")
    grid = Grid((low[0], low[1], low[2]), (high[0], high[1], high[2]), (cell[0], cell[1], cell[2]))
    if math.prod(grid.shape) > _LARGEST:
        size = " x ".join(map(str, grid.shape[::-1]))
        raise ValueError(f"{name.full!r}: a grid of {size} cells is more than {_LARGEST}; raise cell or narrow range")
    features = [part for part in name.options.get("features", "").split("+") if part]
    if len(set(features)) < len(features) or not set(features) <= set(_CHANNELS):
        raise ValueError(f"{name.full!r}: option features must be some of {', '.join(_CHANNELS)}, joined by +")
    levels = name.whole("levels", int(_DEFAULTS["levels"]))
    if not 1 < levels <= 6:
        raise ValueError(f"{name.full!r}: option levels must be from 2 to 6, got {levels}")
    return {"width": int(found[1]), "levels": levels, "features": features, **grid._asdict()}


def _range(name: ModelName) -> tuple[list[float], list[float]]:
    """Lower and upper corner."""
    numbers = _numbers(name, "range")
    if len(numbers) == 3:
        numbers = [-numbers[0], -numbers[0], numbers[1], numbers[0], numbers[0], numbers[2]]
    if len(numbers) != 6 or any(low >= high for low, high in zip(numbers[:3], numbers[3:], strict=True)):
        raise ValueError(
            f"{name.full!r}: option range must be X0,Y0,Z0,X1,Y1,Z1 or R,Z0,Z1 in metres, each from low to high"
        )
    return numbers[:3], numbers[3:]


def _numbers(name: ModelName, option: str) -> list[float]:
    text = name.options.get(option, _DEFAULTS[option])
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name.full!r}: option {option} must be numbers with commas between them, got {text!r}")
    return numbers
