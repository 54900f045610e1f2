"""Fields of signed distances that read a volume of features, at a time, and volumes that go on in time with actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ActionRecurrence", "TemporalField", "exits", "finer_ranges", "sinusoidal", "trilinear"]


def sinusoidal(values: Tensor, frequencies: int) -> Tensor:
    """(..., C) -> (..., 2 K C): for each component sin(2^k v), k = 0 .. K - 1, then the cosines likewise."""
    powers = 2.0 ** torch.arange(frequencies, dtype=values.dtype, device=values.device)  # (K,)
    angles = values[..., None] * powers  # (..., C, K)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def trilinear(volume: Tensor, place: Tensor) -> Tensor:
    """(B, C, Z, Y, X), (B, P, 3) in cells -> (B, P, C) as 3-D sampling gives it, but differentiable twice and more.

    Args:
        volume: features.
        place: x, y, z counted in cells, 0 and 1 the faces of the first cell; beyond the outermost centres the outermost
            value is kept.
    """
    sizes = torch.tensor(volume.shape[:1:-1], dtype=place.dtype, device=place.device)  # X, Y, Z
    inside = (place - 0.5).clamp(min=0).minimum(sizes - 1)  # (B, P, 3)
    low = inside.detach().floor().minimum((sizes - 2).clamp(min=0))
    part = inside - low
    low = low.long()
    flat = volume.flatten(2)  # (B, C, V)
    depth, height, width = volume.shape[2:]
    total = torch.zeros((), dtype=volume.dtype, device=volume.device)
    for corner in range(8):
        step = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=place.device)  # x, y, z
        x, y, z = (low + step).minimum(sizes.long() - 1).unbind(2)  # (B, P) each
        index = ((z * height + y) * width + x)[:, None].expand(-1, volume.shape[1], -1)  # (B, C, P)
        weight = torch.where(step.bool(), part, 1 - part).prod(dim=2)  # (B, P)
        total = total + flat.gather(2, index) * weight[:, None]
    return total.transpose(1, 2)


def exits(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Range (..., R) at which rays (..., R, 3) from origins (..., 3) leave a box; 0 for those that begin outside it."""
    safe = torch.where(directions.abs() < 1e-6, 1e-6, directions)
    faces = torch.stack([(low - origins)[..., None, :] / safe, (high - origins)[..., None, :] / safe])
    return faces.amax(dim=0).amin(dim=-1).clamp(min=0)


def finer_ranges(ranges: Tensor, weights: Tensor, count: int) -> Tensor:
    """Further ranges (R, count) where the weights (R, N - 1) between ranges (R, N) are large: inverse distribution.

    Places are those of `count` equal shares, in their middles. Without gradient.
    """
    with torch.no_grad():
        shares = weights + 1e-5
        cumulative = (shares / shares.sum(dim=1, keepdim=True)).cumsum(dim=1)  # (R, N - 1)
        wanted = (torch.arange(count, dtype=ranges.dtype, device=ranges.device) + 0.5) / count
        wanted = wanted.expand(len(ranges), -1).contiguous()
        found = torch.searchsorted(cumulative, wanted).clamp(max=cumulative.shape[1] - 1)  # (R, count)
        before = torch.cat([torch.zeros_like(cumulative[:, :1]), cumulative], dim=1)
        start, end = before.gather(1, found), before.gather(1, found + 1)
        part = ((wanted - start) / (end - start).clamp(min=1e-12)).clamp(0, 1)
        return torch.lerp(ranges.gather(1, found), ranges.gather(1, found + 1), part)


class ActionRecurrence(nn.Module):
    """The next volume from a volume and what the sensor does meanwhile (TREND's recurrent embedding).

    The action's sines and cosines go through a two-layer network, are put beside the features of every place, and
    shallow 3 x 3 x 3 convolutions do the rest. What they find is added to the volume, so that at first nothing changes.

    Args:
        channels: of the volume.
        frequencies: of the encoding of the action.
        hidden: length of the action's embedding.
        layers: convolutions.
    """

    def __init__(self, channels: int, *, frequencies: int = 6, hidden: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.action = nn.Sequential(nn.Linear(6 * frequencies, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        convolutions: list[nn.Module] = []
        for layer in range(layers):
            convolutions += [nn.Conv3d(channels + (hidden if layer == 0 else 0), channels, 3, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions[:-1])
        nn.init.zeros_(self.convolutions[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.convolutions[-1].bias)  # type: ignore[arg-type]

    def forward(self, volume: Tensor, action: Tensor) -> Tensor:
        """(B, C, Z, Y, X), (B, 3) as dx, dy, turn -> (B, C, Z, Y, X)."""
        embedded = self.action(sinusoidal(action, self.frequencies))  # (B, H)
        everywhere = embedded[:, :, None, None, None].expand(-1, -1, *volume.shape[2:])
        return volume + self.convolutions(torch.cat([volume, everywhere], dim=1))


class TemporalField(nn.Module):
    """Signed distance, and brightness of a return, at any place and time (TREND's temporal LiDAR neural field).

    The distance is that to a sphere of `radius` around the sensor, seen from inside, plus what the network finds:
    rendering begins with every ray ending there, as NeuS's geometric initialisation has it.

    Args:
        channels: of the features at a place.
        extent: metres; places are divided by it, distances multiplied. Half the longest side of the box.
        radius: of the sphere, metres.
        hidden, layers: of the network; the place's features enter at every layer.
        geometry: length of what it hands to the brightness.
        frequencies: of the encoding of the time.
        spread: v of the sharpness exp(10 v) / extent, learnt; larger is sharper.
    """

    def __init__(
        self,
        channels: int,
        *,
        extent: float,
        radius: float,
        hidden: int = 64,
        layers: int = 2,
        geometry: int = 16,
        frequencies: int = 4,
        spread: float = 0.3,
    ) -> None:
        super().__init__()
        self.extent, self.radius, self.frequencies = extent, radius, frequencies
        inputs = 3 + 2 * frequencies
        self.layers = nn.ModuleList(
            nn.Linear(channels + (hidden if layer else inputs), hidden) for layer in range(layers)
        )
        self.activation = nn.Softplus(beta=100)
        self.distance = nn.Linear(hidden, 1)
        self.geometry = nn.Linear(hidden, geometry)
        self.brightness = nn.Sequential(
            nn.Linear(3 * 4 + geometry + channels, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid()
        )
        self.spread = nn.Parameter(torch.tensor(spread))
        nn.init.normal_(self.distance.weight, std=1e-2 / math.sqrt(hidden))
        nn.init.zeros_(self.distance.bias)

    @property
    def sharpness(self) -> Tensor:
        """h, one over metres, 0-d: exp(10 v) within [1e-6, 1e6] over the extent."""
        return (10 * self.spread).exp().clamp(1e-6, 1e6) / self.extent

    def forward(self, places: Tensor, times: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distances (B, P) in metres and geometry (B, P, G).

        Args:
            places: (B, P, 3), metres.
            times: (B,), in sweeps; 0 is that of the volume's own sweep.
            features: (B, P, C), of the volume at the places.
        """
        time = sinusoidal(times[:, None].to(places.dtype), self.frequencies)[:, None]  # (B, 1, 2 K)
        found = torch.cat([places / self.extent, time.expand(-1, places.shape[1], -1)], dim=2)
        for layer in self.layers:
            found = self.activation(layer(torch.cat([found, features], dim=2)))
        sphere = self.radius - (places.square().sum(dim=2) + 1e-6).sqrt()
        return sphere + self.extent * self.distance(found)[..., 0], self.geometry(found)

    def light(self, directions: Tensor, geometry: Tensor, features: Tensor) -> Tensor:
        """Intensity (B, P) in (0, 1) of a return, by the direction (B, P, 3) of the ray."""
        return self.brightness(torch.cat([sinusoidal(directions, 2), geometry, features], dim=2))[..., 0]
