"""From the maps of an image network to one score a class and pixel: a feature pyramid and the Semantic FPN head."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

__all__ = ["SegmentationHead"]


class SegmentationHead(nn.Module):
    """Feature pyramid (Lin et al. 2017) and the head of Semantic FPN (Kirillov et al. 2019, section 3).

    Every level of the pyramid is brought to the size of the finest by 3 x 3 convolutions with BatchNorm that each
    double it; the sum of the levels is classified.

    Args:
        channels: of the maps, the finest first, each about half the size of the one before.
        width: channels of the pyramid.
        hidden: channels of the head.
        classes: scores of a pixel.
        dropout: probability of dropping a channel before classification.
    """

    def __init__(self, channels: Sequence[int], *, width: int, hidden: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(channels), width)
        self.levels = nn.ModuleList(_Level(level, width, hidden) for level in range(len(channels)))
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(hidden, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h_i, w_i) -> scores (B, K, h_0, w_0)."""
        found = list(self.pyramid(OrderedDict((str(n), tensor) for n, tensor in enumerate(maps))).values())
        height, width = found[0].shape[2:]
        total = sum(level(tensor, height, width) for level, tensor in zip(self.levels, found, strict=True))
        return self.classify(self.dropout(total))


class _Level(nn.Module):
    """Convolutions that bring one level to the size of the finest, each to twice the size before."""

    def __init__(self, level: int, width: int, hidden: int) -> None:
        super().__init__()
        self.level = level
        inputs = [width, *[hidden] * (max(level, 1) - 1)]
        self.convolutions = nn.Sequential(*(_convolution(size, hidden) for size in inputs))

    def forward(self, tensor: Tensor, height: int, width: int) -> Tensor:
        for number, convolution in enumerate(self.convolutions):
            tensor = convolution(tensor)
            if self.level:
                left = 2 ** (self.level - number - 1)
                size = (math.ceil(height / left), math.ceil(width / left))
                tensor = F.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
        return tensor


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
