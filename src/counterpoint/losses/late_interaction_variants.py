"""Late interaction of chosen tokens, over prompts, and as the authors' code has it (Yao et al. 2021, FILIP)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.losses.late_interaction import late_interaction_similarity

__all__ = ["TokenChoice", "class_scores", "released_loss", "select_tokens"]


class TokenChoice(NamedTuple):
    """Which tokens of each sample are kept, best first.

    Attributes:
        image_weight: (B, n1) largest similarity of each patch to any real word of the batch.
        image_index: (B, k1). text_index: (B, k2), padding last.
        text_valid: (B, k2), False where a kept word is padding.
    """

    image_weight: Tensor
    image_index: Tensor
    text_index: Tensor
    text_valid: Tensor


@torch.no_grad()
def select_tokens(image: Tensor, text: Tensor, text_mask: Tensor, *, ratio: float) -> TokenChoice:
    """The share `ratio` of unit tokens (B, n, D) nearest to any token of the other side (section 3.2); no gradient."""
    words, patches = text.flatten(0, 1)[text_mask.flatten()], image.flatten(0, 1)
    image_weight = (image @ words.T).amax(dim=2)  # (B, n1)
    text_weight = (text @ patches.T).amax(dim=2).masked_fill(~text_mask, -math.inf)  # (B, n2)
    image_index, text_index = (
        weight.argsort(dim=1, descending=True, stable=True)[:, : max(1, int(weight.shape[1] * ratio))]
        for weight in (image_weight, text_weight)
    )
    return TokenChoice(image_weight, image_index, text_index, text_mask.gather(1, text_index))


def class_scores(image: Tensor, prompts: Tensor, prompt_mask: Tensor) -> Tensor:
    """(N, n1, D), (C, T, n2, D), (C, T, n2) -> (N, C): image-to-text scores averaged over the T prompts of a class."""
    scores, _ = late_interaction_similarity(image, prompts.flatten(0, 1), text_mask=prompt_mask.flatten(0, 1))
    return scores.unflatten(1, prompts.shape[:2]).mean(dim=2)


def released_loss(
    image: Tensor,
    text: Tensor,
    text_mask: Tensor,
    *,
    log_scale_image: float | Tensor,
    log_scale_text: float | Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the released code computes instead, for comparison: loss, logits per image, logits per text (B, B).

    Padded words are zeroed, not excluded, so one can win with similarity 0; each direction has its own scale; logits
    are clipped to [-100, 100]. `image` (B, 1 + n1, D) starts with the class token, which is dropped.
    """
    image = normalize(image[:, 1:], dim=2)
    text = normalize(text, dim=2) * text_mask[..., None]
    to_text, to_image = late_interaction_similarity(image, text)  # (B, B) each, over all words, padded ones too
    to_image = to_image * (text.shape[1] / text_mask.sum(dim=1).to(text.dtype))  # the divisor is the real words' number
    per_image = (torch.as_tensor(log_scale_image).exp() * to_text).clamp(-100, 100)
    per_text = (torch.as_tensor(log_scale_text).exp() * to_image.T).clamp(-100, 100)
    own = torch.arange(len(image), device=image.device)
    both = [cross_entropy(logits, own, label_smoothing=label_smoothing) for logits in (per_image, per_text)]
    return (both[0] + both[1]) / 2, per_image, per_text
