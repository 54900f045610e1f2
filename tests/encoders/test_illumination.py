"""The illumination network: its matrices against torch's own pooling, strips against the whole, memory, restarts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from counterpoint.encoders import illumination
from counterpoint.encoders.illumination import IlluminationNet, pooling_matrix, relight, spreading_matrix


def _picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _net(width: int = 4) -> IlluminationNet:
    torch.manual_seed(0)
    net = IlluminationNet(width, 1.0).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # so that every layer matters
    return net


@pytest.mark.parametrize(("size", "bins"), [(7, 3), (13, 6), (5, 6), (2, 6), (6, 6), (40, 1)])
def test_matrices_pool_and_spread_as_torch_does(size: int, bins: int) -> None:
    values, small = _picture(size, size), _picture(bins, bins, 1)
    pooled = pooling_matrix(size, bins) @ values @ pooling_matrix(size, bins).T
    torch.testing.assert_close(pooled, F.adaptive_avg_pool2d(values, bins))
    spread = spreading_matrix(size, bins) @ small @ spreading_matrix(size, bins).T
    torch.testing.assert_close(spread, F.interpolate(small, (size, size), mode="bilinear", align_corners=True))


def test_it_has_the_papers_size() -> None:
    assert sum(parameter.numel() for parameter in IlluminationNet().parameters()) == 278_790


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize(("height", "width", "strip"), [(101, 37, 37 * 20), (64, 200, 1), (35, 9, 9 * 17)])
def test_strips_give_the_whole_map(
    height: int, width: int, strip: int, reflect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, picture = _net(), _picture(height, width)
    with torch.no_grad():
        whole = net(picture, reflect=reflect)
        monkeypatch.setattr(illumination, "_STRIP", strip)
        torch.testing.assert_close(net(picture, reflect=reflect), whole, rtol=0, atol=1e-12)
    assert float(whole.std()) > 1e-3, "a flat map would hide a wrong strip"


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_memory_does_not_grow_with_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(illumination, "_STRIP", 64 * 32)
    net, largest = _net(), []
    for height in (256, 1024):
        with torch.no_grad(), _Largest() as seen:
            light = net(_picture(height, 64))
        largest.append(seen.numel)
        assert light.shape == (1, 1, height, 64)
    assert largest[1] <= max(1.1 * largest[0], 3 * 1024 * 64)  # the picture itself has three channels


def test_smallest_pictures_and_wrong_shapes() -> None:
    net = _net()
    assert net(_picture(2, 2), reflect=True).shape == (1, 1, 2, 2)
    for wrong in (_picture(1, 5), _picture(5, 5)[0], _picture(5, 5)[:, :2]):
        with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) of at least 2 x 2 pixels"):
            net(wrong)
    with pytest.raises(ValueError, match="width must be a multiple of 4, got 6"):
        IlluminationNet(6)


def test_starts() -> None:
    torch.manual_seed(1)
    picture = _picture(16, 16)
    net = IlluminationNet(4, 1.0).double()
    torch.testing.assert_close(relight(picture, net(picture)), picture, atol=0.02, rtol=0)
    before = net.entry.weight.clone()
    net.reset()
    assert not torch.equal(net.entry.weight, before)
    torch.testing.assert_close(net(picture), torch.ones(1, 1, 16, 16).double(), atol=0.02, rtol=0)
    lights: list[float] = []
    for seed in range(8):
        torch.manual_seed(seed)
        lights.append(IlluminationNet(4).double()(picture).mean().item())
    assert min(lights) == 0.0 and max(lights) < 0.3, "the official start is near 0, and dead for some seeds"


def test_relight_divides_and_saturates() -> None:
    images = torch.tensor([0.2, 0.4, 0.9]).view(1, 3, 1, 1).double().requires_grad_()
    bright = relight(images, torch.full((1, 1, 1, 1), 0.5).double())
    bright.sum().backward()
    torch.testing.assert_close(bright.flatten(), torch.tensor([0.4, 0.8, 1.0]).double())
    assert images.grad is not None
    torch.testing.assert_close(images.grad.flatten(), torch.tensor([2.0, 2.0, 0.0]).double())
    dark = relight(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1))
    assert float(dark.sum()) == 0.0, "0 / 0 is black"
