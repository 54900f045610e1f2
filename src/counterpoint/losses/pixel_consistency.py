"""Agreement and contrast of cells of two crops that show the same spot (Xie et al. 2021, PixPro and PixContrast)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["cell_centres", "pixel_consistency", "pixel_contrast", "positive_cells"]


def cell_centres(place: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Places (N, 4) -> centres (N, h * w, 2) as x, y, row by row, and diagonals (N,) of a cell.

    Cells of a mirrored crop have negative width, so that their centres run from right to left as its pixels do.
    """
    x0, y0, x1, y1 = place.unsqueeze(2).unbind(1)  # (N, 1) each
    cell_width, cell_height = (x1 - x0) / width, (y1 - y0) / height
    x = x0 + (torch.arange(width, device=place.device) + 0.5) * cell_width  # (N, w)
    y = y0 + (torch.arange(height, device=place.device) + 0.5) * cell_height  # (N, h)
    centres = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return centres.flatten(1, 2), torch.hypot(cell_width, cell_height)[:, 0]


def positive_cells(first: Tensor, second: Tensor, *, size: tuple[int, int], ratio: float) -> Tensor:
    """Places (N, 4), (N, 4) -> mask (N, P, P): centres nearer than `ratio` times the larger diagonal (section 3.1)."""
    (ours, our_diagonal), (theirs, their_diagonal) = cell_centres(first, *size), cell_centres(second, *size)
    offsets = ours[:, :, None] - theirs[:, None]  # (N, P, P, 2); written out, as `cdist` may round through a product
    distances = torch.hypot(offsets[..., 0], offsets[..., 1])
    return distances / torch.maximum(our_diagonal, their_diagonal)[:, None, None] < ratio


def pixel_consistency(query: Tensor, key: Tensor, positives: Tensor) -> Tensor:
    """-2 times the mean cosine of positive cells, in every image by itself and then over all images (equation 5).

    An image without a positive adds 0 and still counts. In [-2, 2]; 0 for unrelated features.

    Args:
        query, key: (N, C, h, w), unit vectors at every cell.
        positives: (N, P, P) of bool, query cell by key cell.
    """
    cosines = torch.einsum("ncp,ncq->npq", query.flatten(2), key.flatten(2))  # (N, P, P)
    weights = positives.to(cosines.dtype)
    return -2 * ((cosines * weights).sum(dim=(1, 2)) / (weights.sum(dim=(1, 2)) + 1e-6)).mean()


def pixel_contrast(query: Tensor, key: Tensor, positives: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum of -log(share of the positives) over query cells that have one, and their number (PixContrast, equation 2).

    The candidates of a cell are all cells of the other view of its own image.

    Args:
        query, key: (N, C, h, w), any length.
        positives: (N, P, P) of bool.
        temperature: above 0.
    """
    query, key = normalize(query.flatten(2), dim=1), normalize(key.flatten(2), dim=1)
    logits = torch.einsum("ncp,ncq->npq", query, key) / temperature
    counted = positives.any(dim=2)  # (N, P)
    logits, positives = logits[counted], positives[counted]  # (R, P)
    found = logits.masked_fill(~positives, -math.inf).logsumexp(dim=1)
    return (logits.logsumexp(dim=1) - found).sum(), counted.sum()
