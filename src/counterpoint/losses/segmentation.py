"""Losses of pixels: the class of each, and which lie inside boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoint.losses.checks import finite_loss, floating, positive_scalar, same_rows
from counterpoint.losses.tiles import working_dtype

__all__ = ["box_region_loss", "box_regions", "enlarged", "pixel_cross_entropy"]


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, K, h, w) -> (N, K, H, W), bilinearly; pixels are areas, not corner points (`align_corners=False`)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def pixel_cross_entropy(scores: Tensor, labels: Tensor, *, temperature: float | Tensor, ignored: int = 255) -> Tensor:
    """Cross-entropy of every pixel's class from maps that are first enlarged to the labels (Rao et al. 2022, eq. 6).

    Ignored pixels add 0 and still count, as in the segmentation toolbox that DenseCLIP was trained with: the loss is
    the sum over the others divided by the number of all pixels. A guesser over K classes has ln K where none is
    ignored.

    Args:
        scores: (N, K, h, w); cosines with a temperature, or logits with temperature 1. float64, float32, bfloat16 or
            float16 (computed in float32).
        labels: (N, H, W), whole numbers in [0, K), or `ignored`.
        temperature: divides the scores; above 0.
        ignored: label of pixels that teach nothing.

    Returns:
        0-d, float32 (float64 for float64 scores), at least 0.

    Raises:
        TypeError: scores that are not floating point, labels that are not integers.
        ValueError: other shapes, no rows, labels of no class, a NaN, a temperature that is not positive.

    Example:
        >>> labels = torch.zeros(1, 4, 4, dtype=torch.int64)
        >>> round(float(pixel_cross_entropy(torch.zeros(1, 2, 2, 2), labels, temperature=0.07)), 4)
        0.6931
    """
    _check_maps(scores)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be an integer tensor, got {got}")
    if labels.dim() != 3 or labels.numel() == 0:
        raise ValueError(f"labels must have shape (N, H, W), got {tuple(labels.shape)}")
    same_rows(scores=scores, labels=labels)
    labels = labels.long()
    wrong = (labels != ignored) & ((labels < 0) | (labels >= scores.shape[1]))
    if bool(wrong.any()):
        found = int(labels[wrong][0])
        raise ValueError(f"labels must lie in [0, {scores.shape[1]}) or be {ignored} (ignored), but one is {found}")
    values = scores.to(working_dtype(scores))
    scale = positive_scalar("temperature", temperature, like=values)
    with torch.autocast(scores.device.type, enabled=False):
        logits = enlarged(values / scale, (labels.shape[1], labels.shape[2]))  # (N, K, H, W)
        # One row a pixel: the two-dimensional form has no deterministic kernel on a GPU.
        flat, targets = logits.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()  # (P, K), (P,)
        loss = F.cross_entropy(flat, targets, ignore_index=ignored, reduction="sum") / targets.numel()
    return finite_loss(loss + 0.0 * values.sum(), scores=scores)  # an ignored pixel does not see its infinity


def box_regions(
    boxes: Tensor, labels: Tensor, *, classes: int, size: tuple[int, int], stride: int
) -> tuple[Tensor, Tensor]:
    """What boxes cover on a map: class by class (N, K, h, w), and whether any box does (N, 1, h, w); both of bool.

    A coordinate is divided by the stride, truncated and clamped to [0, side - 1]; right and bottom are exclusive. So
    the last row and the last column are never covered, as in the official code.

    Args:
        boxes: (N, M, 4), left, top, right, bottom in pixels of the picture.
        labels: (N, M), whole numbers in [0, K); -1 where a picture has fewer boxes.
        classes: K.
        size: (h, w) of the map.
        stride: pixels of the picture that a cell spans.
    """
    height, width = size
    limits = torch.tensor([width - 1, height - 1, width - 1, height - 1], device=boxes.device)
    cells = (boxes / stride).long().clamp(min=0).minimum(limits)  # (N, M, 4)
    left, top, right, bottom = cells.unsqueeze(2).unbind(3)  # (N, M, 1) each
    across, down = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    inside = ((down >= top) & (down < bottom))[..., None] & ((across >= left) & (across < right))[:, :, None]
    target = torch.zeros(len(boxes), classes, height, width, dtype=torch.bool, device=boxes.device)
    for row, box in (labels >= 0).nonzero().tolist():
        target[row, labels[row, box]] |= inside[row, box]  # (h, w)
    return target, target.any(dim=1, keepdim=True)


def box_region_loss(scores: Tensor, boxes: Tensor, labels: Tensor, *, stride: int = 4) -> Tensor:
    """Binary cross-entropy of "a box of this class lies here", inside the boxes (Rao et al. 2022, section 3.4).

    Every cell that any box of the picture covers counts once a class; the mean is over those of all pictures. Without
    a covered cell the loss is 0, where the official code divides by zero.

    Args:
        scores: (N, K, h, w), logits: cosines over the temperature, enlarged to the stride. float64, float32, bfloat16
            or float16 (computed in float32).
        boxes: (N, M, 4), left, top, right, bottom in pixels of the picture; any real numbers. M may be 0.
        labels: (N, M), whole numbers in [0, K); -1 where a picture has fewer boxes.
        stride: pixels of the picture that a cell spans.

    Returns:
        0-d, float32 (float64 for float64 scores), at least 0; ln 2 for scores of 0.

    Raises:
        TypeError: scores that are not floating point, labels that are not integers.
        ValueError: other shapes, no rows, labels of no class, a NaN, a stride below 1.

    Example:
        >>> boxes, labels = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.tensor([[1]])
        >>> round(float(box_region_loss(torch.zeros(1, 2, 4, 4), boxes, labels)), 4)
        0.6931
    """
    _check_maps(scores)
    for name, value in (("boxes", boxes), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be an integer tensor, got {labels.dtype}")
    same_rows(scores=scores, boxes=boxes, labels=labels)
    if boxes.dim() != 3 or boxes.shape[2] != 4 or labels.shape != boxes.shape[:2]:
        shapes = f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"boxes and labels must have shape (N, M, 4) and (N, M), got {shapes}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    classes = scores.shape[1]
    if labels.numel() and (int(labels.min()) < -1 or int(labels.max()) >= classes):
        raise ValueError(f"labels must lie in [0, {classes}) or be -1 (no box), got {labels.tolist()}")
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError("boxes must be finite, but one holds NaN or infinity; drop it or give it the label -1")
    size = (scores.shape[2], scores.shape[3])
    target, covered = box_regions(boxes, labels, classes=classes, size=size, stride=stride)
    values = scores.to(working_dtype(scores))
    with torch.autocast(scores.device.type, enabled=False):
        terms = F.binary_cross_entropy_with_logits(values, target.to(values.dtype), reduction="none")  # (N, K, h, w)
        loss = (terms * covered).sum() / (covered.sum() * classes).clamp(min=1)
    return finite_loss(loss + 0.0 * values.sum(), scores=scores)


def _check_maps(scores: Tensor) -> None:
    floating("scores", scores)
    if scores.dim() != 4:
        raise ValueError(f"scores must have shape (N, K, h, w), got {tuple(scores.shape)}")
    if scores.numel() == 0:
        raise ValueError(f"scores must have at least one row, class and cell, got shape {tuple(scores.shape)}")
