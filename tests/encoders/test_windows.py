"""Sliding windows against loops, and labels at the picture's own resolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoint.encoders import windows
from counterpoint.encoders.windows import label_maps, largest_at, sliding_scores, window_starts, working_size

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_windows_cover_every_pixel_and_end_with_the_picture() -> None:
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(300, 512, 341) == [0]
    assert window_starts(513, 512, 341) == [0, 1]
    assert window_starts(1024, 512, 341) == [0, 341, 512]
    for length in range(1, 40):
        for stride in (1, 3, 5, 7):
            starts = window_starts(length, 7, stride)
            assert {pixel for start in starts for pixel in range(start, start + 7)} >= set(range(length))
            assert starts == sorted(set(starts)) and starts[-1] == max(length - 7, 0)


def test_the_shorter_side_is_the_windows_until_the_picture_is_too_long() -> None:
    assert working_size(100, 150, 32) == (32, 48)
    assert working_size(150, 100, 32) == (48, 32)
    for height, width in ((10, 4000), (4000, 10), (100, 1000), (1, 10**6)):
        tall, wide = (max(side, 32) for side in working_size(height, width, 32))  # windows are filled up
        assert tall * wide <= 1.05 * windows.MOST_WINDOWS * 32**2


@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 19), (5, 6), (9, 4)])
def test_scores_are_means_over_the_windows(height: int, width: int) -> None:
    """Each window's answer depends on where its pixels lie in it, so a wrong place would show."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, height, width, generator=generator, dtype=torch.float64)
    place = torch.rand(2, 8, 8, generator=generator, dtype=torch.float64)

    def score(views: Tensor) -> Tensor:
        assert views.shape[1:] == (3, 8, 8)
        return views[:, :2] * place

    tall, wide = max(height, 8), max(width, 8)
    padded = torch.zeros(3, tall, wide, dtype=torch.float64)
    padded[:, :height, :width] = image
    total, seen = torch.zeros(2, tall, wide, dtype=torch.float64), torch.zeros(tall, wide)
    for top in window_starts(height, 8, 5):
        for left in window_starts(width, 8, 5):
            for y in range(8):
                for x in range(8):
                    total[:, top + y, left + x] += padded[:2, top + y, left + x] * place[:, y, x]
                    seen[top + y, left + x] += 1
    found = sliding_scores(score, image, window=8, stride=5)
    torch.testing.assert_close(found, (total / seen)[:, :height, :width])


def test_coarse_scores_are_enlarged_to_the_window() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = sliding_scores(lambda views: F.avg_pool2d(views, 4), image, window=8, stride=8)
    wanted = F.interpolate(F.avg_pool2d(image[None], 4), size=(8, 8), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("size", [(13, 17), (4, 5), (3, 2), (40, 9)])
def test_strips_give_what_the_whole_would(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)
    for strip in (1, 100, 2**22):
        monkeypatch.setattr(windows, "STRIP", strip)
        assert torch.equal(largest_at(scores, *size), whole)


def test_labels_have_the_size_of_the_picture_and_do_not_depend_on_its_neighbours() -> None:
    """The class of a pixel is its strongest colour."""
    images = torch.zeros(2, 3, 30, 44)
    images[0, 0, :, :22] = images[0, 2, :, 22:] = 1.0
    images[1, 1] = 1.0
    found = label_maps(lambda views: views, images, window=16, stride=9, **PLAIN)
    assert found.shape == (2, 30, 44) and found.dtype == torch.int64
    assert bool((found[0, :, :22] == 0).all() and (found[0, :, 22:] == 2).all() and (found[1] == 1).all())
    assert torch.equal(found[1:], label_maps(lambda views: views, images[1:], window=16, stride=9, **PLAIN))


def test_pixels_are_normalised() -> None:
    seen = []

    def score(views: Tensor) -> Tensor:
        seen.append(views)
        return views

    label_maps(score, torch.full((1, 3, 8, 8), 0.5), window=8, stride=8, mean=(0.5, 0.0, 1.0), std=(1.0, 0.5, 2.0))
    torch.testing.assert_close(seen[0][0, :, 3, 3], torch.tensor([0.0, 1.0, -0.25]))


def test_not_pictures() -> None:
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 0, 8)):
        with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\)"):
            label_maps(lambda views: views, wrong, window=8, stride=8, **PLAIN)
