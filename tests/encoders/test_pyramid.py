"""The feature pyramid and its head: sizes, and that every level counts."""

from __future__ import annotations

import pytest
import torch

from counterpoint.encoders.pyramid import SegmentationHead


def _maps(finest: int, levels: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [max(1, -(-finest // 2**level)) for level in range(levels)]
    return [torch.randn(2, 3 + level, side, side + 1, generator=generator) for level, side in enumerate(sides)]


@pytest.mark.parametrize("finest", [16, 13, 8, 3])
@pytest.mark.parametrize("levels", [4, 2, 1])
def test_scores_are_as_fine_as_the_finest_map(finest: int, levels: int) -> None:
    maps = _maps(finest, levels)
    head = SegmentationHead([tensor.shape[1] for tensor in maps], width=8, hidden=6, classes=5).eval()
    assert head(maps).shape == (2, 5, *maps[0].shape[2:])


def test_every_level_counts() -> None:
    torch.manual_seed(0)
    maps = [tensor.requires_grad_() for tensor in _maps(16)]
    head = SegmentationHead([tensor.shape[1] for tensor in maps], width=8, hidden=6, classes=5).eval()
    head(maps).square().sum().backward()
    assert all(tensor.grad is not None and float(tensor.grad.abs().sum()) > 0 for tensor in maps)
    for parameter in head.parameters():
        assert parameter.grad is not None


def test_a_coarse_level_is_enlarged_step_by_step() -> None:
    """As in Semantic FPN: one convolution for each doubling, and one for a level that needs none."""
    head = SegmentationHead([3, 4, 5, 6], width=8, hidden=6, classes=5)
    assert [len(level.convolutions) for level in head.levels] == [1, 1, 2, 3]


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    maps = _maps(8)
    head = SegmentationHead([tensor.shape[1] for tensor in maps], width=8, hidden=6, classes=5, dropout=0.5)
    for level in head.levels:
        level.eval()  # the norms would change with every call
    head.classify.eval()
    assert not torch.equal(head(maps), head(maps))
    head.eval()
    assert torch.equal(head(maps), head(maps))
