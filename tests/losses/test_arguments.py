"""What single losses say of their own arguments, and how their forms relate."""

from __future__ import annotations

import math

import pytest
import torch
from loss_case import unit_rows

from counterpoint.losses import (
    clip_loss,
    info_nce,
    late_interaction,
    late_interaction_similarity,
    moco_loss,
    nt_xent,
    siglip_loss,
    sinkhorn,
    supervised_contrastive,
    swapped_prediction,
)


def _rows(count: int, seed: int, *shape: int) -> torch.Tensor:
    return unit_rows(torch.Generator().manual_seed(seed), count, *(shape or (6,)))


QUERY, KEY, BANK = _rows(5, 0), _rows(5, 1), _rows(4, 2)


def test_moco_is_info_nce_with_the_batch_masked_out() -> None:
    masked = torch.zeros(5, 9, dtype=torch.float64)
    masked[:, :5] = -math.inf  # entries at positives are ignored
    for label_smoothing in (0.0, 0.2):
        settings = {"temperature": 0.3, "label_smoothing": label_smoothing}
        ours = moco_loss(QUERY, KEY, BANK, **settings)
        torch.testing.assert_close(ours, info_nce(QUERY, KEY, negatives=BANK, negative_bias=masked, **settings))


def test_hard_negatives_are_further_key_rows_or_negatives_alike() -> None:
    as_keys = info_nce(QUERY, torch.cat([KEY, BANK]), targets=torch.arange(5), temperature=0.2)
    torch.testing.assert_close(as_keys, info_nce(QUERY, KEY, negatives=BANK, temperature=0.2))


def test_an_empty_queue_counts_for_nothing() -> None:
    alone = info_nce(QUERY, KEY, temperature=0.2)
    assert torch.equal(alone, info_nce(QUERY, KEY, negatives=BANK[:0], temperature=0.2))


def test_column_weights_are_pair_weights_repeated() -> None:
    weights = torch.tensor([0.5, -1.0, -math.inf, 2.0], dtype=torch.float64)
    for label_smoothing in (0.0, 0.3):
        values = [
            info_nce(QUERY, KEY, negatives=BANK, negative_bias=bias, temperature=0.2, label_smoothing=label_smoothing)
            for bias in (
                weights,
                weights.expand(5, 4),
                torch.cat([torch.zeros(5, dtype=torch.float64), weights]),
                torch.cat([torch.zeros(5, 5, dtype=torch.float64), weights.expand(5, 4)], dim=1),
            )
        ]
        for value in values[1:]:
            torch.testing.assert_close(value, values[0])


def test_a_masked_false_negative_is_as_if_it_were_not_there() -> None:
    bias = torch.zeros(4, dtype=torch.float64)
    bias[1] = -math.inf
    without = info_nce(QUERY, KEY, negatives=BANK[[0, 2, 3]], temperature=0.2, label_smoothing=0.1)
    masked = info_nce(QUERY, KEY, negatives=BANK, negative_bias=bias, temperature=0.2, label_smoothing=0.1)
    torch.testing.assert_close(masked, without)


def test_negatives_get_a_gradient_only_when_asked() -> None:
    bank = BANK.clone().requires_grad_()
    info_nce(QUERY, KEY, negatives=bank, temperature=0.2).backward()
    assert bank.grad is not None
    assert bank.grad.abs().sum() > 0
    query = QUERY.clone().requires_grad_()
    moco_loss(query, KEY, BANK, temperature=0.2).backward()
    assert BANK.grad is None
    assert query.grad is not None


def test_siglip_blocks_add_up_to_the_whole() -> None:
    """As processes that hold a block each: own block with positives, the others as negatives only."""
    image, text = _rows(6, 0), _rows(6, 1)
    settings = {"logit_scale": 10.0, "logit_bias": -5.0}
    whole = siglip_loss(image, text, **settings)
    total = 0.0
    for mine, other in ((slice(0, 4), slice(4, 6)), (slice(4, 6), slice(0, 4))):
        rows = len(image[mine])
        total += rows * siglip_loss(image[mine], text[mine], **settings)
        total += rows * siglip_loss(image[mine], text[other], negative_only=True, **settings)
    torch.testing.assert_close(total / 6, whole)


def test_late_interaction_takes_any_counts_and_masks_both_sides() -> None:
    image, text = _rows(3, 0, 5, 6), _rows(4, 1, 7, 6)
    image_mask, text_mask = torch.ones(3, 5), torch.ones(4, 7)
    image_mask[1, 2:] = 0
    text_mask[2, :4] = 0
    of_image, of_text = late_interaction_similarity(image, text, image_mask=image_mask, text_mask=text_mask)
    assert of_image.shape == of_text.shape == (3, 4)
    kept, read = image[1, :2], text[2, 4:]
    torch.testing.assert_close(of_image[1, 2], (kept @ read.T).amax(1).mean())
    torch.testing.assert_close(of_text[1, 2], (kept @ read.T).amax(0).mean())


def test_late_interaction_gives_padding_no_gradient() -> None:
    text, mask = _rows(3, 1, 4, 6).requires_grad_(), torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2:] = False
    late_interaction(_rows(3, 0, 5, 6), text, text_mask=mask, temperature=0.1).backward()
    assert text.grad is not None
    assert not bool(text.grad[1, 2:].any())
    assert bool(text.grad[1, :2].any())


def test_sinkhorn_balances() -> None:
    codes = sinkhorn(_rows(40, 0, 8) * 0.5, epsilon=0.05, iterations=100)
    torch.testing.assert_close(codes.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_sinkhorn_survives_an_epsilon_that_would_underflow() -> None:
    codes = sinkhorn(_rows(40, 0, 8).half(), epsilon=1e-4, iterations=3)
    assert bool(torch.isfinite(codes).all())
    torch.testing.assert_close(codes.sum(1), torch.ones(40))


PAIR_BIAS = torch.zeros(5, 9, dtype=torch.float64)
WRONG = {
    "targets beyond the keys": (
        lambda: info_nce(QUERY, KEY, targets=torch.tensor([0, 1, 2, 3, 5]), temperature=1.0),
        ValueError,
        r"targets must lie in \[0, 5\), got values from 0 to 5",
    ),
    "targets of another length": (
        lambda: info_nce(QUERY, KEY, targets=torch.arange(4), temperature=1.0),
        ValueError,
        r"targets must have shape \(5,\), one for each row, got \(4,\)",
    ),
    "targets that are no integers": (
        lambda: info_nce(QUERY, KEY, targets=torch.zeros(5), temperature=1.0),
        TypeError,
        "targets must be an integer tensor, got torch.float32",
    ),
    "more keys than queries without targets": (
        lambda: info_nce(QUERY, torch.cat([KEY, BANK]), temperature=1.0),
        ValueError,
        r"query and key must have the same number of rows, got query \(5, 6\), key \(9, 6\)",
    ),
    "weights of another shape": (
        lambda: info_nce(QUERY, KEY, negatives=BANK, negative_bias=PAIR_BIAS[:, :7], temperature=1.0),
        ValueError,
        r"negative_bias must have shape \(C,\) or \(5, C\) with C = 9 .* or 4 \(the negatives\), got \(5, 7\)",
    ),
    "weights of other rows": (
        lambda: info_nce(QUERY, KEY, negatives=BANK, negative_bias=PAIR_BIAS[:4], temperature=1.0),
        ValueError,
        r"negative_bias must have shape .* got \(4, 9\)",
    ),
    "weights that are integers": (
        lambda: info_nce(QUERY, KEY, negative_bias=torch.zeros(5, dtype=torch.int64), temperature=1.0),
        TypeError,
        "negative_bias must be a floating tensor of log-weights, got torch.int64",
    ),
    "weights that are not numbers": (
        lambda: info_nce(QUERY, KEY, negative_bias=torch.full((5, 5), math.nan), temperature=1.0),
        ValueError,
        "negative_bias must be finite, but row 0 ",
    ),
    "label smoothing of one": (
        lambda: info_nce(QUERY, KEY, label_smoothing=1.0, temperature=1.0),
        ValueError,
        r"label_smoothing must lie in \[0, 1\), got 1.0",
    ),
    "negatives of another width": (
        lambda: info_nce(QUERY, KEY, negatives=_rows(3, 0, 4), temperature=1.0),
        ValueError,
        "query and key and negatives must have the same last dimension",
    ),
    "an empty queue": (
        lambda: moco_loss(QUERY, KEY, BANK[:0], temperature=1.0),
        ValueError,
        r"queue must have at least one row",
    ),
    "a temperature for every row": (
        lambda: nt_xent(QUERY, KEY, temperature=torch.ones(5)),
        ValueError,
        r"temperature must be a number or a tensor of one element, got shape \(5,\)",
    ),
    "a temperature that is text": (
        lambda: nt_xent(QUERY, KEY, temperature="0.1"),
        TypeError,
        "temperature must be a number, got str",
    ),
    "a bias that is not finite": (
        lambda: clip_loss(QUERY, KEY, logit_scale=1.0, logit_bias=math.inf),
        ValueError,
        "logit_bias must be finite, got inf",
    ),
    "no two rows of a class": (
        lambda: supervised_contrastive(QUERY, torch.arange(5), temperature=1.0),
        ValueError,
        "labels must hold some class twice, got 5 rows of 5 classes; draw batches",
    ),
    "labels of another length": (
        lambda: supervised_contrastive(QUERY, torch.arange(4), temperature=1.0),
        ValueError,
        r"labels must have shape \(5,\)",
    ),
    "a text without a token": (
        lambda: late_interaction_similarity(_rows(2, 0, 3, 6), _rows(2, 0, 3, 6), text_mask=torch.eye(2, 3) * 0),
        ValueError,
        "text_mask must leave each row at least one real token, row 0 has none",
    ),
    "a mask of another shape": (
        lambda: late_interaction_similarity(_rows(2, 0, 3, 6), _rows(2, 0, 3, 6), text_mask=torch.ones(2, 4)),
        ValueError,
        r"text_mask must have shape \(2, 3\), got \(2, 4\)",
    ),
    "negative iterations": (
        lambda: sinkhorn(QUERY, epsilon=0.05, iterations=-1),
        ValueError,
        "iterations must be at least 0, got -1",
    ),
    "epsilon of zero": (
        lambda: sinkhorn(QUERY, epsilon=0.0, iterations=3),
        ValueError,
        "epsilon must be positive, got 0",
    ),
    "one view": (
        lambda: swapped_prediction(_rows(4, 0, 1, 3), _rows(4, 0, 1, 3), temperature=1.0),
        ValueError,
        "scores must hold at least two views",
    ),
    "codes of other prototypes": (
        lambda: swapped_prediction(_rows(4, 0, 2, 3), _rows(4, 0, 2, 5), temperature=1.0),
        ValueError,
        r"must agree in N and K, got \(4, 2, 3\) and \(4, 2, 5\)",
    ),
    "a view assigned twice": (
        lambda: swapped_prediction(_rows(4, 0, 3, 3), _rows(4, 0, 2, 3), temperature=1.0, assigned=[1, 1]),
        ValueError,
        r"assigned must name 2 different views in \[0, 3\), one a code, got \[1, 1\]",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name: str) -> None:
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        call()
