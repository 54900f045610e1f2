"""Late interaction of token sequences (FILIP): the mean over tokens of the best match on the other side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from counterpoint.losses.checks import (
    finite_loss,
    floating,
    positive_scalar,
    same_rows,
    same_width,
    smoothing,
)
from counterpoint.losses.sharing import party_for
from counterpoint.losses.tiles import first_order, token_tiles, working_dtype


def late_interaction(
    image: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Symmetric cross-entropy over token-wise similarities (Yao et al. 2022, FILIP, eq. 3-6).

    The mean of the two values of `late_interaction_directions`, which see. ln N is the value of a guesser.

    Args:
        image: (N, n1, D) tokens, usually unit vectors. float64, float32, bfloat16 or float16 (worked on in
            float32).
        text: (N, n2, D) tokens; text i belongs to image i.
        temperature: t > 0; a number or a 0-d tensor with gradient.
        image_mask: (N, n1) bool or 0/1, true for real tokens; None when all are.
        text_mask: (N, n2), the same for the text. Padded tokens take no part, neither in a maximum nor in a
            mean.
        label_smoothing: in [0, 1), over the N candidates of each direction.

    Returns:
        0-d, float32 (float64 for float64 tokens).

    Raises:
        TypeError: tokens that are not floating point.
        ValueError: shapes that do not fit, a sequence without a real token, a NaN, `temperature` not
            positive.

    Example:
        >>> tokens = torch.eye(4)[:, None].repeat(1, 3, 1)  # (4, 3, 4)
        >>> round(float(late_interaction(tokens, tokens, temperature=0.1)), 6)
        0.000136
    """
    image_to_text, text_to_image = late_interaction_directions(
        image,
        text,
        temperature=temperature,
        image_mask=image_mask,
        text_mask=text_mask,
        label_smoothing=label_smoothing,
    )
    return (image_to_text + text_to_image) / 2


def late_interaction_directions(
    image: Tensor,
    text: Tensor,
    *,
    temperature: float | Tensor,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The image-to-text and the text-to-image cross-entropy (Yao et al. 2022, eq. 5 and 6).

    With s_I and s_T from `late_interaction_similarity`::

        image_to_text = mean_i -log softmax_j(s_I(i, j) / t)[i]     (over the texts)
        text_to_image = mean_j -log softmax_i(s_T(i, j) / t)[j]     (over the images)

    Arguments and errors as `late_interaction`. Memory: the two (N, N) matrices beside one tile of token
    similarities.
    """
    for name, value in (("image", image), ("text", text)):
        floating(name, value)
    same_rows(image=image, text=text)
    smoothing(label_smoothing)
    of_image, of_text = late_interaction_similarity(image, text, image_mask=image_mask, text_mask=text_mask)
    scale = 1.0 / positive_scalar("temperature", temperature, like=of_image)
    own = torch.arange(len(image), device=image.device)
    image_to_text = cross_entropy(of_image * scale, own, label_smoothing=label_smoothing)
    text_to_image = cross_entropy(of_text.T * scale, own, label_smoothing=label_smoothing)
    finite_loss(image_to_text + text_to_image, image=image, text=text)
    return image_to_text, text_to_image


def late_interaction_similarity(
    image: Tensor,
    text: Tensor,
    *,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Token-wise similarity of every image and every text, from either side (Yao et al. 2022, eq. 3 and 4).

    ::

        s_I(i, j) = mean over real k of max over real r of <image_ik, text_jr>
        s_T(i, j) = mean over real r of max over real k of <image_ik, text_jr>

    The gradient goes to the best match only. The tensor of all token similarities (I, T, n1, n2) is visited
    tile by tile and never held: memory is that of the tokens and of the two results.

    Args:
        image: (I, n1, D) tokens. float64, float32, bfloat16 or float16 (worked on in float32).
        text: (T, n2, D) tokens.
        image_mask: (I, n1) bool or 0/1, true for real tokens; None when all are.
        text_mask: (T, n2), the same for the text.

    Returns:
        s_I and s_T, both (I, T): images down, texts across; float32 (float64 for float64 tokens).

    Raises:
        TypeError: tokens that are not floating point.
        ValueError: shapes that do not fit, or a sequence without a real token.
    """
    for name, value in (("image", image), ("text", text)):
        floating(name, value)
        if value.dim() != 3 or value.numel() == 0:
            raise ValueError(f"{name} must have shape (N, tokens, D), none of them zero, got {tuple(value.shape)}")
    same_width(image=image, text=text)
    dtype = working_dtype(image, text)
    images, image_weight = _without_padding("image", image.to(dtype), image_mask)
    texts, text_weight = _without_padding("text", text.to(dtype), text_mask)
    result: tuple[Tensor, Tensor] = _MeanOfMax.apply(images, texts, image_weight, text_weight)
    return result


def _without_padding(name: str, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens with every padded one replaced by a real one of its row, and (N, n) weights that average the
    real ones.

    A repeated token changes no maximum, so tiles need no mask.
    """
    if mask is None:
        return tokens, tokens.new_full(tokens.shape[:2], 1.0 / tokens.shape[1])
    if mask.shape != tokens.shape[:2]:
        raise ValueError(f"{name}_mask must have shape {tuple(tokens.shape[:2])}, got {tuple(mask.shape)}")
    real = mask.to(tokens.device, torch.bool)
    count = real.sum(1, keepdim=True)  # (N, 1)
    if not bool((count > 0).all()):
        row = int((count == 0).flatten().nonzero()[0])
        raise ValueError(f"{name}_mask must leave each row at least one real token, row {row} has none")
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(real)
    places = torch.where(real, places, real.to(torch.uint8).argmax(1, keepdim=True))  # (N, n)
    filled = tokens.gather(1, places[:, :, None].expand_as(tokens))
    return filled, real / count.to(tokens.dtype)


def _similarities(image: Tensor, text: Tensor) -> Tensor:
    """(i, n1, D), (t, n2, D) -> (i, n1, t, n2)."""
    product = image.flatten(0, 1) @ text.flatten(0, 1).T
    return product.view(*image.shape[:2], *text.shape[:2])


class _MeanOfMax(torch.autograd.Function):
    """(image, text, weights of image tokens, of text tokens) -> weighted sums of maxima, both (I, T)."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, image_weight: Tensor, text_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        party = party_for(image.shape[:2].numel() * text.shape[:2].numel())

        def visited() -> tuple[Tensor, Tensor]:
            of_image = image.new_zeros(len(image), len(text))
            of_text = torch.zeros_like(of_image)
            for rows, columns in party.mine(token_tiles(image, text, party.members)):
                scores = _similarities(image[rows], text[columns])  # (i, n1, t, n2)
                of_image[rows, columns] = torch.einsum("ikt,ik->it", scores.amax(3), image_weight[rows])
                of_text[rows, columns] = torch.einsum("itr,tr->it", scores.amax(1), text_weight[columns])
            return of_image, of_text

        with torch.autocast(image.device.type, enabled=False):
            of_image, of_text = party.summed(visited)
        ctx.party = party
        ctx.save_for_backward(image, text, image_weight, text_weight)
        return of_image, of_text

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        image, text, image_weight, text_weight = ctx.saved_tensors
        image_gradient, text_gradient = torch.zeros_like(image), torch.zeros_like(text)
        party = ctx.party
        if party.members > 1:  # of its own tiles, times the number of members: see `sharing`
            gradients = tuple(party.members * gradient for gradient in gradients)
        with torch.autocast(image.device.type, enabled=False):
            for rows, columns in party.mine(token_tiles(image, text, party.members)):
                scores = _similarities(image[rows], text[columns])  # (i, n1, t, n2)
                # `max` also finds the first best match, and on a CPU much faster than `argmax`.
                best_text, best_image = scores.max(3, keepdim=True).indices, scores.max(1, keepdim=True).indices
                of_image = gradients[0][rows, columns][:, None] * image_weight[rows][:, :, None]  # (i, n1, t)
                of_text = gradients[1][rows, columns][:, :, None] * text_weight[columns][None]  # (i, t, n2)
                scores.zero_().scatter_(3, best_text, of_image[..., None])
                scores.scatter_add_(1, best_image, of_text[:, None])
                flat = scores.flatten(2).flatten(0, 1)  # (i * n1, t * n2)
                image_gradient[rows].flatten(0, 1).addmm_(flat, text[columns].flatten(0, 1))
                text_gradient[columns].flatten(0, 1).addmm_(flat.T, image[rows].flatten(0, 1))
        return image_gradient, text_gradient, None, None
