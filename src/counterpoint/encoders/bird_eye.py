"""A map seen from above over a volume of features: where things of each class are centred, and their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoint.encoders.points import Grid

__all__ = ["BOX", "CentreHead", "box_code", "box_from_code", "peaks"]

BOX = 8
"""Numbers that describe a box: see `box_code`."""
_RARE = 0.1
"""Probability of a centre that the head begins with."""


class CentreHead(nn.Module):
    """CenterPoint's first stage (Yin et al. 2021): scores of centres and one box a cell, the same for all classes.

    Args:
        channels: of the volume.
        height: its cells along z; they become channels.
        classes: K.
        width: channels of the map.
    """

    def __init__(self, channels: int, height: int, classes: int, width: int) -> None:
        super().__init__()
        groups = math.gcd(width, 8)
        self.trunk = nn.Sequential(
            nn.Conv2d(channels * height, width, 1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
        )
        self.heat = nn.Conv2d(width, classes, 1)
        self.box = nn.Conv2d(width, BOX, 1)
        nn.init.constant_(self.heat.bias, math.log(_RARE / (1 - _RARE)))  # type: ignore[arg-type]

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, Z, Y, X) -> logits of centres (B, K, Y, X) and codes of boxes (B, 8, Y, X)."""
        features = self.trunk(volume.flatten(1, 2))
        return self.heat(features), self.box(features)


def box_code(grid: Grid, centres: Tensor, size: Tensor, yaw: Tensor) -> Tensor:
    """Boxes (..., 8) as a cell describes them: place of the centre in the cell, z, logarithms of the sides, sin, cos.

    Args:
        grid: of the map.
        centres, size: (..., 3), metres.
        yaw: (...), radians.
    """
    low, cell = centres.new_tensor(grid.low), centres.new_tensor(grid.cell)
    place = (centres[..., :2] - low[:2]) / cell[:2]
    return torch.cat([place - place.floor(), centres[..., 2:], size.log(), _circle(yaw)], dim=-1)


def box_from_code(grid: Grid, cells: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (..., 3), sides (..., 3) and yaw (...) from cells (..., 2), x and y, and codes (..., 8)."""
    low, cell = code.new_tensor(grid.low), code.new_tensor(grid.cell)
    flat = low[:2] + (cells + code[..., :2]) * cell[:2]
    centres = torch.cat([flat, code[..., 2:3]], dim=-1)
    return centres, code[..., 3:6].clamp(-5, 5).exp(), torch.atan2(code[..., 6], code[..., 7])


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.sin(), angle.cos()], dim=-1)


def peaks(
    heat: Tensor, code: Tensor, grid: Grid, *, least: float, most: int, apart: Sequence[float]
) -> dict[str, Tensor]:
    """Boxes of one map: cells that are the largest of their 3 x 3 neighbourhood, best first.

    Args:
        heat: (K, Y, X), probabilities.
        code: (8, Y, X).
        grid: of the map.
        least: smallest probability.
        most: boxes at most.
        apart: metres for each class; of two nearer ones of that class the better stays.

    Returns:
        `centre`, `size` (M, 3), `yaw`, `score` (M,) and `label` (M,) int64, on the CPU.
    """
    classes, height, width = heat.shape
    top = F.max_pool2d(heat[None], 3, stride=1, padding=1)[0]
    scores = torch.where((heat == top) & (heat >= least), heat, 0).flatten()
    # Twice as many as asked for: some are too near to others. Sorting is stable, so that ties have one order.
    chosen = scores.argsort(descending=True, stable=True)[: 2 * most]
    chosen = chosen[scores[chosen] > 0]
    label, cell = chosen // (height * width), chosen % (height * width)
    place = torch.stack([cell % width, cell // width], dim=1)  # x, y
    centre, size, yaw = box_from_code(grid, place, code.flatten(1).T[cell])
    found = {"centre": centre, "size": size, "yaw": yaw, "score": scores[chosen], "label": label}
    found = {name: value.cpu() for name, value in found.items()}
    kept: list[int] = []
    for number in range(len(chosen)):
        reach = apart[int(found["label"][number])]
        rivals = [other for other in kept if found["label"][other] == found["label"][number]]
        away = (found["centre"][rivals, :2] - found["centre"][number, :2]).norm(dim=1)
        if len(kept) < most and not bool((away < reach).any()):
            kept.append(number)
    return {name: value[kept] for name, value in found.items()}
