"""The illumination network of CLIP-LIT: a picture in, its map of light out, at the picture's own resolution."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["IlluminationNet", "pooling_matrix", "relight", "spreading_matrix"]

_SLOPE = 0.2
_BINS = (1, 2, 3, 6)
_BEFORE, _AFTER = 5, 12
"""Pixels around a place that the layers before and after the pyramid look at."""
_STRIP = 2**18
"""Pixels of a picture that are computed at once when no gradient is wanted."""


def relight(images: Tensor, light: Tensor) -> Tensor:
    """clamp(images / light, 0, 1) with images (B, 3, H, W) in [0, 1] and light (B, 1, H, W) >= 0 (Retinex).

    Where a value reaches 1 its gradient is zero.
    """
    return (images / (light + 1e-9)).clamp(0.0, 1.0)


@lru_cache(maxsize=64)
def pooling_matrix(size: int, bins: int) -> Tensor:
    """(bins, size) float64: adaptive average pooling of `size` pixels into `bins`."""
    matrix = torch.zeros(bins, size, dtype=torch.float64)
    for row in range(bins):
        first, last = row * size // bins, -(-(row + 1) * size // bins)
        matrix[row, first:last] = 1 / (last - first)
    return matrix


@lru_cache(maxsize=64)
def spreading_matrix(size: int, bins: int) -> Tensor:
    """(size, bins) float64: linear interpolation of `bins` values to `size` pixels, corners on corners."""
    place = torch.linspace(0, bins - 1, size, dtype=torch.float64)[:, None]  # (size, 1)
    return (1 - (place - torch.arange(bins)).abs()).clamp(min=0)


def _pad(images: Tensor, reflect: bool) -> Tensor:
    """One pixel on every side, zero or mirrored about the edge pixel.

    Mirrored by slices: the gradient of torch's own padding is not deterministic on a GPU.
    """
    if not reflect:
        return F.pad(images, (1, 1, 1, 1))
    images = torch.cat([images[:, :, 1:2], images, images[:, :, -2:-1]], dim=2)
    return torch.cat([images[..., 1:2], images, images[..., -2:-1]], dim=3)


class _Residual(nn.Module):
    """lrelu(conv(lrelu(conv(x))) + x), without biases, mirrored at the edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, bias=False)
        self.second = nn.Conv2d(width, width, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        inner = F.leaky_relu(self.first(_pad(images, reflect=True)), _SLOPE)
        return F.leaky_relu(self.second(_pad(inner, reflect=True)) + images, _SLOPE)


class _Pyramid(nn.Module):
    """Means of the whole picture in 1, 4, 9 and 36 cells, laid beside every place.

    Pooling and enlarging are matrix products: their gradients are deterministic everywhere, and a picture can be
    pooled a strip at a time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width // 4, 1, bias=False), nn.PReLU()) for _ in _BINS
        )
        self.fuse = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.slope = nn.PReLU()

    def columns(self, features: Tensor) -> list[Tensor]:
        """(B, C, h, W) -> for each level (B, C, h, bins): every row pooled by itself."""
        return [features @ pooling_matrix(features.shape[3], bins).to(features).T for bins in _BINS]

    def summaries(self, columns: list[Tensor]) -> list[Tensor]:
        """Columns of all rows (B, C, H, bins) -> for each level (B, C / 4, bins, bins)."""
        return [
            level(pooling_matrix(pooled.shape[2], bins).to(pooled) @ pooled)
            for level, pooled, bins in zip(self.levels, columns, _BINS, strict=True)
        ]

    def forward(self, features: Tensor, summaries: list[Tensor], height: int, first: int) -> Tensor:
        """Features (B, C, h, W) of the rows from `first` on of a picture with `height` rows -> the same shape."""
        rows, width = features.shape[2:]
        laid = [features]
        for found, bins in zip(summaries, _BINS, strict=True):
            down = spreading_matrix(height, bins)[first : first + rows].to(features)  # (h, bins)
            laid.append(down @ found @ spreading_matrix(width, bins).to(features).T)
        return self.slope(self.fuse(torch.cat(laid, dim=1)))


class IlluminationNet(nn.Module):
    """Picture (B, 3, H, W) in [0, 1] -> light (B, 1, H, W) >= 0 (Liang et al. 2023, arXiv 2303.17569).

    No normalisation and no down-sampling; 278,790 parameters with 32 channels.

    Args:
        width: channels, a multiple of 4.
        initial_light: what the map starts near, 1 for a picture that is left as it is. None starts as the official
            code does, from N(0, 0.02) and torch's biases: the map is then near 0, and dead where it is 0 everywhere.
    """

    def __init__(self, width: int = 32, initial_light: float | None = None) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        self.initial_light = initial_light
        self.entry = nn.Conv2d(3, width, 3)
        self.first = nn.Sequential(_Residual(width), _Residual(width))
        self.pyramid = _Pyramid(width)
        self.widen = nn.Conv2d(width, 2 * width, 3)
        self.middle = nn.Sequential(_Residual(2 * width), _Residual(2 * width))
        self.narrow = nn.Conv2d(2 * width, width, 3)
        self.last = nn.Sequential(_Residual(width), _Residual(width))
        self.exit = nn.Conv2d(width, 1, 3)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw all weights anew."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.PReLU):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(0.0, 0.02)
        if self.initial_light is not None:
            assert self.exit.bias is not None
            self.exit.bias.fill_(self.initial_light)

    def forward(self, images: Tensor, *, reflect: bool = False) -> Tensor:
        """The map of light.

        Args:
            images: (B, 3, H, W), at least 2 x 2 pixels.
            reflect: mirror at the edges in the four outer convolutions, as the official code does at inference; it
                trains with zeros there.

        Raises:
            ValueError: another shape.
        """
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2:
            raise ValueError(f"images must be (B, 3, H, W) of at least 2 x 2 pixels, got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if torch.is_grad_enabled() or height * width <= _STRIP:
            features = self._before(images, reflect)
            summaries = self.pyramid.summaries(self.pyramid.columns(features))
            return self._after(features, summaries, height, 0, reflect)
        return self._in_strips(images, reflect)

    def _before(self, images: Tensor, reflect: bool) -> Tensor:
        """(B, 3, h, W) -> (B, C, h, W): what the pyramid pools."""
        return self.first(F.leaky_relu(self.entry(_pad(images, reflect)), _SLOPE))

    def _after(self, features: Tensor, summaries: list[Tensor], height: int, first: int, reflect: bool) -> Tensor:
        """Rows from `first` on, (B, C, h, W) -> (B, 1, h, W)."""
        hidden = self.pyramid(features, summaries, height, first)
        hidden = self.middle(self.widen(_pad(hidden, reflect)))
        hidden = self.last(self.narrow(_pad(hidden, reflect)))
        return self.exit(_pad(hidden, reflect)).relu()

    def _in_strips(self, images: Tensor, reflect: bool) -> Tensor:
        """The same map, some rows at a time: memory does not grow with the picture, apart from the map itself.

        The pyramid looks at the whole picture, so its means come first. A strip is computed with as many rows around
        it as its layers look at, which are then cut off.
        """
        height, width = images.shape[2:]
        size = max(_STRIP // width, _BEFORE + _AFTER)
        pooled: list[list[Tensor]] = [[] for _ in _BINS]
        for first, last in _strips(height, size):
            low, high = max(first - _BEFORE, 0), min(last + _BEFORE, height)
            features = self._before(images[:, :, low:high], reflect)[:, :, first - low : last - low]
            for level, found in zip(pooled, self.pyramid.columns(features), strict=True):
                level.append(found)
        summaries = self.pyramid.summaries([torch.cat(level, dim=2) for level in pooled])
        maps = []
        for first, last in _strips(height, size):
            inner, outer = max(first - _AFTER, 0), min(last + _AFTER, height)
            low, high = max(inner - _BEFORE, 0), min(outer + _BEFORE, height)
            features = self._before(images[:, :, low:high], reflect)[:, :, inner - low : outer - low]
            light = self._after(features, summaries, height, inner, reflect)
            maps.append(light[:, :, first - inner : last - inner])
        return torch.cat(maps, dim=2)


def _strips(height: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last row (exclusive) of strips of at most `size` rows; none has a single row only."""
    count = -(-height // size)
    edges = [height * part // count for part in range(count + 1)]
    return zip(edges[:-1], edges[1:], strict=True)
