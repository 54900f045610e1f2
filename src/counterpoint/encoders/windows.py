"""Dense answers for pictures of any size: windows that slide over them, and labels at their own resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["label_maps", "largest_at", "sliding_scores", "window_starts", "working_size"]

MOST_WINDOWS = 8
"""Longer side of the picture at work, in windows; a longer one is shrunk. It bounds the memory of panoramas."""
AT_ONCE = 4
"""Windows that pass the network together."""
STRIP = 2**22
"""Scores that are enlarged at a time."""


def working_size(height: int, width: int, window: int) -> tuple[int, int]:
    """Size at which a picture is looked at: the shorter side is the window's, the longer at most eight times that."""
    scale = min(window / min(height, width), MOST_WINDOWS * window / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every `stride` pixels, the last one at the end."""
    steps = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(step * stride, length - window), 0) for step in range(steps)]


def sliding_scores(score: Callable[[Tensor], Tensor], image: Tensor, *, window: int, stride: int) -> Tensor:
    """Mean scores (K, H, W) of all windows that see a pixel.

    Args:
        score: (N, 3, window, window) -> (N, K, h, w), which are enlarged to the window.
        image: (3, H, W), normalised; where it is smaller than the window, zeros are put to its right and below it.
        window: side of a window, in pixels.
        stride: pixels from one to the next, in [1, window].
    """
    height, width = image.shape[1:]
    padded = F.pad(image, (0, max(window - width, 0), 0, max(window - height, 0)))
    rows, columns = (window_starts(side, window, stride) for side in padded.shape[1:])
    corners = [(top, left) for top in rows for left in columns]
    total: Tensor | None = None
    seen = padded.new_zeros(padded.shape[1:])
    for first in range(0, len(corners), AT_ONCE):
        some = corners[first : first + AT_ONCE]
        views = torch.stack([padded[:, top : top + window, left : left + window] for top, left in some])
        for (top, left), scores in zip(some, score(views), strict=True):
            if total is None:
                total = padded.new_zeros(len(scores), *padded.shape[1:])
            large = F.interpolate(scores[None].to(total), size=(window, window), mode="bilinear", align_corners=False)
            total[:, top : top + window, left : left + window] += large[0]
            seen[top : top + window, left : left + window] += 1
    assert total is not None  # there is at least one window
    return (total / seen)[:, :height, :width]


def largest_at(scores: Tensor, height: int, width: int) -> Tensor:
    """The class with the largest score of each pixel, (height, width) int64, from scores (K, h, w) enlarged to them.

    Strip by strip, so that the enlarged scores are never held together.
    """
    classes, rows = scores.shape[:2]
    places = ((torch.arange(height, device=scores.device) + 0.5) * rows / height - 0.5).clamp(min=0)
    above = places.long()
    share = (places - above).to(scores)[:, None]  # (H, 1)
    below = (above + 1).clamp(max=rows - 1)
    found = []
    for strip in torch.arange(height, device=scores.device).split(max(1, STRIP // (classes * width))):
        lines = scores[:, above[strip]].lerp(scores[:, below[strip]], share[strip])  # (K, n, w)
        wide = (
            F.interpolate(lines, size=width, mode="linear", align_corners=False) if lines.shape[2] != width else lines
        )
        found.append(wide.argmax(dim=0))
    return torch.cat(found)


def label_maps(
    score: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    window: int,
    stride: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], of any size -> the class with the largest score of each pixel, (B, H, W) int64.

    One picture after another: its answer does not depend on the others.

    Args:
        score: normalised windows (N, 3, window, window) -> (N, K, h, w).
        images: the pictures.
        window, stride: as of `sliding_scores`, at the size at which a picture is looked at.
        mean, std: per-channel normalisation.

    Raises:
        ValueError: other shapes.
    """
    if images.dim() != 4 or images.shape[1] != 3 or not images.numel():
        raise ValueError(f"images must be (B, 3, H, W) with pixels in [0, 1], got {tuple(images.shape)}")
    height, width = images.shape[2:]
    shift, scale = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    found = []
    for image in images:
        size = working_size(height, width, window)
        small = F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        scores = sliding_scores(score, (small - shift) / scale, window=window, stride=stride)
        found.append(largest_at(scores, height, width))
    return torch.stack(found)
