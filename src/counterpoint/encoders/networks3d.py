"""Convolutional networks over frames: the 3-D residual networks of CVRL, and a small one for two cores."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["NETWORKS", "Network3D", "ResNet3D", "Small3D", "build"]

_STAGES = {
    "r3d18": (2, 2, 2, 2),
    "r3d34": (3, 4, 6, 3),
    "r3d50": (3, 4, 6, 3),
    "r3d101": (3, 4, 23, 3),
    "r3d152": (3, 8, 36, 3),
}
_BOTTLENECK = 4
"""Channels that leave a bottleneck for one inside."""

NETWORKS = (*_STAGES, "small3d")


class Network3D(nn.Module):
    """A stem and stages, pooled over time and place.

    Attributes:
        dim: channels of the last stage.
    """

    stem: nn.Sequential
    stages: nn.Sequential
    dim: int

    def maps(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, dim, t, h, w), before pooling."""
        return self.stages(self.stem(clips))

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, dim)."""
        return self.maps(clips).mean(dim=(2, 3, 4))


def build(name: str, width: int) -> Network3D:
    """A network by name, one of `NETWORKS`, whose stem has `width` channels; fresh weights."""
    return Small3D(width) if name == "small3d" else ResNet3D(name, width)


def _conv(
    inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1), act: bool = True
) -> Iterator[nn.Module]:
    """Convolution without a bias, batch normalisation, ReLU if `act`."""
    time, height, width = kernel
    yield nn.Conv3d(inputs, outputs, kernel, stride, padding=(time // 2, height // 2, width // 2), bias=False)
    yield nn.BatchNorm3d(outputs)
    if act:
        yield nn.ReLU(inplace=True)


class _Block(nn.Module):
    """A residual block: a bottleneck, or two convolutions where `bottleneck` is False. Time is never strided."""

    def __init__(self, inputs: int, inside: int, outputs: int, time: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        strides = (1, stride, stride)
        if bottleneck:
            layers = [
                *_conv(inputs, inside, (time, 1, 1)),
                *_conv(inside, inside, (1, 3, 3), strides),
                *_conv(inside, outputs, (1, 1, 1), act=False),
            ]
        else:
            layers = [*_conv(inputs, inside, (time, 3, 3), strides), *_conv(inside, outputs, (1, 3, 3), act=False)]
        self.branch = nn.Sequential(*layers)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*_conv(inputs, outputs, (1, 1, 1), strides, act=False)) if changes else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', T, h, w)."""
        return self.relu(self.branch(maps) + (maps if self.shortcut is None else self.shortcut(maps)))


class ResNet3D(Network3D):
    """CVRL's R3D (arXiv 2008.03800, table 1): ResNet with a few convolutions over time.

    The stem convolves 5 frames and halves their number; afterwards time is not strided. Blocks convolve 1 frame in the
    first two stages and 3 in the last two. 50, 101 and 152 layers have bottlenecks, whose first convolution is the one
    over time; 18 and 34 layers follow the same rule. BatchNorm keeps torch's momentum of its running statistics.

    Args:
        name: "r3d18", "r3d34", "r3d50", "r3d101" or "r3d152".
        width: channels of the stem and of the first stage's insides; 64 in the paper, 128 in its 2x networks.
    """

    def __init__(self, name: str, width: int = 64) -> None:
        super().__init__()
        bottleneck = int(name[3:]) >= 50
        self.stem = nn.Sequential(
            *_conv(3, width, (5, 7, 7), (2, 2, 2)), nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
        )
        stages, inputs = [], width
        for stage, count in enumerate(_STAGES[name]):
            inside = width * 2**stage
            outputs = inside * _BOTTLENECK if bottleneck else inside
            blocks = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(_Block(inputs, inside, outputs, 1 if stage < 2 else 3, stride, bottleneck=bottleneck))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.dim = inputs
        _initialise(self)


class Small3D(Network3D):
    """Four 3 x 3 x 3 convolutions, each halving the frame and the last three time, for frames of 24 to 64 pixels.

    Args:
        width: channels of the first; the others have 2, 4 and 8 times as many.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Sequential(*_conv(3, width, (3, 3, 3), (1, 2, 2)))
        self.stages = nn.Sequential(
            *(nn.Sequential(*_conv(fine, coarse, (3, 3, 3), (2, 2, 2))) for fine, coarse in pairwise(widths))
        )
        self.dim = widths[-1]
        _initialise(self)


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
