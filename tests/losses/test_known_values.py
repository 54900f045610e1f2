"""Values worked out by hand, as text: a change of any convention (sum or mean, which rows) shows here."""

from __future__ import annotations

import math

import pytest
import torch

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

EYE = torch.eye(3, dtype=torch.float64)
PAIR = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
TURNED = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
KNOWN = {
    # ln(1 + 2 e^-10): own cosine 1, two others 0
    "info_nce, three orthogonal pairs": (lambda: info_nce(EYE, EYE, temperature=0.1), 0.0000907957),
    # logits [[1, .6], [.6, 1]]: ln(1 + e^-0.4)
    "info_nce, two pairs": (lambda: info_nce(PAIR, PAIR, temperature=1.0), 0.5130152524),
    # target 1 - 0.1 of own, 0.1 spread over both: + 0.1 * (1 - 0.8)
    "info_nce, smoothed": (lambda: info_nce(PAIR, PAIR, label_smoothing=0.1, temperature=1.0), 0.5330152524),
    # rows [[1, .6 | 0], [.6, 1 | .8]]: (ln(1 + e^-.4 + e^-1) + ln(1 + e^-.4 + e^-.2)) / 2
    "info_nce, queue": (
        lambda: info_nce(PAIR, PAIR, negatives=TURNED[:1], temperature=1.0),
        0.8119841232,
    ),
    # the queue's weight 1/2: (ln(1 + e^-.4 + e^-1 / 2) + ln(1 + e^-.4 + e^-.2 / 2)) / 2
    "info_nce, weighted queue": (
        lambda: info_nce(
            PAIR,
            PAIR,
            negatives=TURNED[:1],
            negative_bias=torch.tensor([math.log(0.5)], dtype=torch.float64),
            temperature=1.0,
        ),
        0.6748511060,
    ),
    # own cosine 1 against 0 and 1; against .8 and .6: (ln(2 + e^-1) + ln(1 + e^-.2 + e^-.4)) / 2
    "moco": (lambda: moco_loss(PAIR, PAIR, TURNED, temperature=1.0), 0.8869481183),
    "nt_xent, one pair has no negatives": (lambda: nt_xent(EYE[:1], EYE[1:2], temperature=0.1), 0.0),
    # partner cosine 1, four others 0: ln(1 + 4 e^-2)
    "nt_xent, three orthogonal pairs": (lambda: nt_xent(EYE, EYE, temperature=0.5), 0.4326529030),
    # views 1 0 | .6 .8 | 1 0 | .6 .8: partner 1, two others .6: ln(1 + 2 e^-.4)
    "nt_xent, two pairs": (lambda: nt_xent(PAIR, PAIR, temperature=1.0), 0.8504244356),
    # logits [[0, 1], [.8, .6]]: rows ln(1 + e^1), ln(1 + e^.2); columns ln(1 + e^.8), ln(1 + e^.4); their mean
    "clip, two pairs": (lambda: clip_loss(PAIR, TURNED, logit_scale=1.0), 1.0488791188),
    "clip, three orthogonal pairs": (lambda: clip_loss(EYE, EYE, logit_scale=10.0), 0.0000907957),
    "clip, collapse": (lambda: clip_loss(EYE[:1].repeat(3, 1), EYE[:1].repeat(3, 1), logit_scale=7.0), 1.0986122887),
    # 3 ln 2 for the diagonal at logit 0 and 6 ln(1 + e^-10), over 3
    "siglip": (lambda: siglip_loss(EYE, EYE, logit_scale=10.0, logit_bias=-10.0), 0.6932379784),
    # all 9 as negatives: 3 ln 2 and 6 ln(1 + e^-10), over 3
    "siglip, negatives only": (
        lambda: siglip_loss(EYE, EYE, logit_scale=10.0, logit_bias=-10.0, negative_only=True),
        0.6932379784,
    ),
    # logits 1 - .5 on the diagonal, .6 - .5 off it: ln(1 + e^-.5) + ln(1 + e^.1)
    "siglip, two pairs": (lambda: siglip_loss(PAIR, PAIR, logit_scale=1.0, logit_bias=-0.5), 1.2184736442),
    # classes a a b: anchors 1, 2 with cosine .6 to each other; to the third 0 and .8
    # (ln(1 + e^-.6) + ln(1 + e^.2)) / 2
    "supervised, a single is no anchor": (
        lambda: supervised_contrastive(torch.cat([PAIR, TURNED[:1]]), torch.tensor([0, 0, 1]), temperature=1.0),
        0.6178134099,
    ),
    # all of one class: each row's mean over the other two of ln 2 at equal logits
    "supervised, collapse": (
        lambda: supervised_contrastive(EYE[:1].repeat(3, 1), torch.tensor([5, 5, 5]), temperature=0.2),
        0.6931471806,
    ),
    # two classes of two equal rows, other class at 0: ln(1 + 2 e^-2)
    "supervised, two classes": (
        lambda: supervised_contrastive(EYE[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), temperature=0.5),
        0.2395447662,
    ),
    # tokens e1 e2 | e1 e1 e2: each finds itself, so 1 both ways for the own; the rest is 0
    "late interaction, orthogonal": (
        lambda: late_interaction(EYE[:, None], EYE[:, None], temperature=0.1),
        0.0000907957,
    ),
    # image (1 0), (.6 .8) against text (0 1): maxima 0 and .8 -> .4; text side .8
    "late interaction, similarity of the image": (
        lambda: late_interaction_similarity(PAIR[None], TURNED[None, :1])[0].sum(),
        0.4,
    ),
    "late interaction, similarity of the text": (
        lambda: late_interaction_similarity(PAIR[None], TURNED[None, :1])[1].sum(),
        0.8,
    ),
    # one iteration on [[1, 0], [0, 0]] with epsilon 1 / ln 2: mass [[2, 1], [1, 1]] -> prototypes 2/3 1/3, 1/2 1/2
    # -> sample 0: 4/7 3/7
    "sinkhorn": (
        lambda: sinkhorn(
            torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64), epsilon=1 / math.log(2), iterations=1
        )[0, 0],
        0.5714285714,
    ),
    "sinkhorn, no iteration": (
        lambda: sinkhorn(
            torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64), epsilon=1 / math.log(2), iterations=0
        )[0, 0],
        0.8,
    ),
    "sinkhorn, equal scores": (lambda: sinkhorn(EYE * 0, epsilon=0.05, iterations=3)[0, 0], 0.3333333333),
    # views [1, 0] and [0, 0], hard codes on the first prototype: code 0 asks view 1: ln 2; code 1 asks view 0:
    # ln(1 + e^-1); their mean
    "swapped": (
        lambda: swapped_prediction(
            torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64),
            torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64),
            temperature=1.0,
        ),
        0.5032044340,
    ),
    # only view 1 is assigned: its code asks view 0
    "swapped, one assigned": (
        lambda: swapped_prediction(
            torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64),
            torch.tensor([[[1.0, 0.0]]], dtype=torch.float64),
            temperature=1.0,
            assigned=[1],
        ),
        0.3132616875,
    ),
    "swapped, collapse": (
        lambda: swapped_prediction(EYE[:, None].repeat(1, 2, 1) * 0, EYE[:, None], temperature=0.1),
        1.0986122887,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_value(name: str) -> None:
    call, expected = KNOWN[name]
    assert float(call()) == pytest.approx(expected, abs=1e-9)
