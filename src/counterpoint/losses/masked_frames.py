"""What hidden frames of a sequence are asked: which code vector was there, which code, and are all codes in use."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from counterpoint.losses.checks import finite_loss, floating, positive_scalar, same_rows, same_width
from counterpoint.losses.tiles import working_dtype

__all__ = ["code_diversity", "code_perplexity", "diversity_at", "masked_contrast", "masked_prediction"]


def masked_contrast(
    context: Tensor,
    targets: Tensor,
    codes: Tensor,
    distractors: Tensor,
    mask: Tensor,
    *,
    temperature: float | Tensor,
) -> Tensor:
    """Each hidden frame picks its own target among those of other hidden frames (Baevski et al. 2020, eq. 3).

    With c_t, q_t of one sequence, D_t the distractors of frame t and M the hidden frames::

        loss_n = sum_{t in M} -log( e_tt / (e_tt + sum_{s in D_t} e_ts) ),  e_ts = exp(c_t . q_s / tau)

    A distractor with the same code as the frame itself does not count, as in the official code: with few codes it would
    be a right answer. Sequences never meet. ln(1 + |D|) a frame is the value of a guesser.

    Args:
        context: (N, T, D), usually unit vectors. float64, float32, bfloat16 or float16 (accumulated in float32).
        targets: (N, T, D), usually unit vectors.
        codes: (N, T, G) whole numbers; frames with equal numbers have equal targets.
        distractors: (N, T, K) whole numbers in [0, T): for each frame others of its sequence.
        mask: (N, T) of bool, the hidden frames; nothing else is read of others.
        temperature: tau > 0; a number or a 0-d tensor with gradient.

    Returns:
        (N,) sums over the hidden frames, float32 (float64 for float64 rows); 0 without one. Divide by their number.

    Raises:
        TypeError: context or targets that are not floating point, numbers that are not whole, a mask not of bool.
        ValueError: shapes that do not fit, no rows, a NaN row, a distractor elsewhere, `temperature` not positive.

    Example:
        >>> rows, mask = torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool)
        >>> others, codes = torch.tensor([[[1], [2], [0]]]), torch.arange(3).reshape(1, 3, 1)
        >>> round(float(masked_contrast(rows, rows, codes, others, mask, temperature=1.0)), 4)
        0.9398
    """
    _check_sequences(mask, context=context, targets=targets)
    same_width(context=context, targets=targets)
    _check_numbers("codes", codes, context.shape[:2])
    _check_numbers("distractors", distractors, context.shape[:2])
    if distractors.numel() and (int(distractors.min()) < 0 or int(distractors.max()) >= context.shape[1]):
        raise ValueError(f"distractors must lie in [0, {context.shape[1]}), the frames of a sequence")
    dtype = working_dtype(context, targets)
    with torch.autocast(context.device.type, enabled=False):
        rows, columns = context.to(dtype), targets.to(dtype)
        similarities = rows @ columns.mT  # (N, T, T)
        similarities = similarities / positive_scalar("temperature", temperature, like=similarities)
        equal = (codes[:, :, None] == codes[:, None]).all(dim=3)  # (N, T, T)
        own = torch.diagonal(similarities, dim1=1, dim2=2)  # (N, T)
        others = similarities.masked_fill(equal, -torch.inf).gather(2, distractors.long())  # (N, T, K)
        losses = torch.cat([own[..., None], others], dim=2).logsumexp(dim=2) - own
        result = torch.where(mask, losses, 0.0).sum(dim=1)
    finite_loss(result.sum() + 0.0 * (rows.sum() + columns.sum()), context=context, targets=targets)
    return result


def masked_prediction(logits: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of naming the code of each hidden frame, averaged over codebooks (Chung et al. 2021, section 2.3).

    The codes are constants, so nothing flows into what chose them. ln V a frame is the value of a guesser.

    Args:
        logits: (N, T, G, V). float64, float32, bfloat16 or float16 (computed in float32).
        codes: (N, T, G) whole numbers in [0, V).
        mask: (N, T) of bool, the hidden frames.

    Returns:
        (N,) sums over the hidden frames, float32 (float64 for float64 logits); 0 without one. Divide by their number.

    Raises:
        TypeError: logits that are not floating point, codes that are not whole, a mask not of bool.
        ValueError: shapes that do not fit, no rows, a NaN row, a code that does not exist.

    Example:
        >>> codes, mask = torch.zeros(1, 3, 1, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
        >>> round(float(masked_prediction(torch.zeros(1, 3, 1, 4), codes, mask)) / 3, 4)
        1.3863
    """
    _check_sequences(mask, dims=4, logits=logits)
    _check_numbers("codes", codes, logits.shape[:3], dims=3)
    if int(codes.min()) < 0 or int(codes.max()) >= logits.shape[3]:
        raise ValueError(f"codes must lie in [0, {logits.shape[3]}), got {int(codes.min())} to {int(codes.max())}")
    values = logits.to(working_dtype(logits))
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(values.flatten(0, 2), codes.flatten().long(), reduction="none")
        losses = losses.view_as(codes).mean(dim=2)  # (N, T)
        result = torch.where(mask, losses, 0.0).sum(dim=1)
    finite_loss(result.sum() + 0.0 * values.sum(), logits=logits)
    return result


def code_perplexity(usage: Tensor, counts: Tensor) -> Tensor:
    """How many codes are in use: exp of the entropy of their mean probability, summed over codebooks (1 to V each).

    Args:
        usage: (N, G, V), for each sequence the sum over its hidden frames of the probabilities of the codes (chosen
            ones and zeros give the perplexity of the choice).
        counts: (N,), over how many frames that sum went.

    Returns:
        0-d, float32 (float64 for float64 usage); 0 where nothing was counted.
    """
    dtype = working_dtype(usage)
    total = counts.to(usage.device, dtype).sum()
    shares = usage.to(dtype).sum(dim=0) / total.clamp(min=torch.finfo(dtype).tiny)  # (G, V)
    entropy = -torch.special.xlogy(shares, shares.clamp(min=torch.finfo(dtype).tiny)).sum(dim=1)
    return entropy.exp().sum() * (total > 0)


def diversity_at(perplexity: Tensor, codes: int) -> Tensor:
    """The share of `codes` that a perplexity leaves out, in [0, 1): (codes - P) / codes."""
    return (codes - perplexity) / codes


def code_diversity(usage: Tensor, counts: Tensor) -> Tensor:
    """Draws the mean probability of the codes towards equal use (Baevski et al. 2020, eq. 4, in the form of its code).

    loss = (G V - P) / (G V) with the perplexity P of `code_perplexity`. The rows meet here.

    Args:
        usage: (N, G, V), for each sequence the sum over its hidden frames of softmax(l), without noise or temperature.
            float64, float32, bfloat16 or float16 (accumulated in float32).
        counts: (N,) numbers, over how many frames that sum went; 0 for a sequence without any.

    Returns:
        0-d, float32 (float64 for float64 usage), in [0, 1).

    Raises:
        TypeError: usage that is not floating point, counts that are no tensor.
        ValueError: other shapes, no rows, a NaN row.

    Example:
        >>> round(float(code_diversity(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.ones(2))), 4)
        0.0
    """
    floating("usage", usage)
    if usage.dim() != 3 or not usage.numel():
        raise ValueError(f"usage must have shape (N, G, V) with at least one row, got {tuple(usage.shape)}")
    if not isinstance(counts, Tensor):
        raise TypeError(f"counts must be a tensor, got {type(counts).__name__}")
    if counts.dim() != 1:
        raise ValueError(f"counts must have shape (N,), one for each row of usage, got {tuple(counts.shape)}")
    same_rows(usage=usage, counts=counts)
    with torch.autocast(usage.device.type, enabled=False):
        loss = diversity_at(code_perplexity(usage, counts), usage.shape[1] * usage.shape[2])
    return finite_loss(loss + 0.0 * usage.float().sum(), usage=usage)


def _check_sequences(mask: Tensor, *, dims: int = 3, **named: Tensor) -> None:
    """Floating (N, T, ...) tensors with a mask (N, T) of bool."""
    for name, value in named.items():
        floating(name, value)
        shape = "(N, T, D)" if dims == 3 else "(N, T, G, V)"
        if value.dim() != dims:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
        if not value.numel():
            raise ValueError(f"{name} must have at least one row, got shape {tuple(value.shape)}")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, got {mask.dtype if isinstance(mask, Tensor) else type(mask)}")
    same_rows(**named, mask=mask)
    for name, value in named.items():
        if mask.shape != value.shape[:2]:
            raise ValueError(f"mask must have shape {tuple(value.shape[:2])} like {name}, got {tuple(mask.shape)}")


def _check_numbers(name: str, value: Tensor, shape: torch.Size, *, dims: int = 2) -> None:
    """Whole numbers whose first dimensions are given."""
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be an integer tensor, got {got}")
    if value.dim() != 3 or value.shape[:dims] != shape:
        raise ValueError(f"{name} must have shape {(*shape, '...')[:3]}, got {tuple(value.shape)}")
