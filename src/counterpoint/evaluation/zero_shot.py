"""Classifiers made of class names: prompts, their mean direction, and the accuracy they reach."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.evaluation.checks import check_features
from counterpoint.evaluation.retrieval import Score

__all__ = ["TEMPLATES", "prompts", "top_k_accuracy", "zero_shot_classifier", "zero_shot_scores"]

TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "{}",
)
"""The seven simple templates of CLIP's notebook (Radford et al. 2021, arXiv 2103.00020) and the bare name."""


def prompts(class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """All prompts, class by class: class_names x templates, in that order.

    Raises:
        ValueError: no class, no template, or a template without "{}".
    """
    if not class_names:
        raise ValueError("class_names is empty: name at least two classes")
    if not templates:
        raise ValueError("templates is empty: pass at least '{}'")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no {{}} where the class name goes")
    return [template.replace("{}", name) for name in class_names for template in templates]


def zero_shot_classifier(prompt_features: Tensor) -> Tensor:
    """Prompt ensembling: normalise every prompt, average over the templates, normalise again.

    Args:
        prompt_features: (C, T, D) text vectors of C classes x T templates, any scale.

    Returns:
        (D, C); with unit image vectors, `images @ classifier` is the cosine to each class.

    Raises:
        ValueError: not (C, T, D), or not finite.
    """
    if prompt_features.dim() != 3:
        raise ValueError(f"prompt_features must be (C, T, D), got shape {tuple(prompt_features.shape)}")
    if not bool(prompt_features.isfinite().all()):
        raise ValueError("prompt_features has values that are not finite")
    directions = normalize(prompt_features, dim=2).mean(dim=1)  # (C, D)
    return normalize(directions, dim=1).T


def zero_shot_scores(images: Tensor, prompt_features: Tensor, *, score: Score | None = None) -> Tensor:
    """(N, C) similarity of images and classes.

    Args:
        images: (N, D); or (N, L, D) tokens, which need `score`.
        prompt_features: (C, T, D); or (C, T, M, D) tokens.
        score: the model's own similarity of one image set and one prompt set. Averaging directions has no
            meaning for it, so each prompt is scored and the scores are averaged over the templates. None is
            the cosine to `zero_shot_classifier`.
    """
    if score is None:
        return normalize(images.float(), dim=1) @ zero_shot_classifier(prompt_features.float())
    classes, templates = prompt_features.shape[:2]
    scores = score(images, prompt_features.flatten(0, 1))  # (N, C * T)
    return scores.unflatten(1, (classes, templates)).mean(dim=2)


def top_k_accuracy(scores: Tensor, labels: Tensor, *, at: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Share of rows whose class is among the k best scores, in [0, 1].

    Args:
        scores: (N, C), larger is likelier.
        labels: (N,) in [0, C).
        at: values of k; those above C count every row as right.
    """
    check_features("scores", scores, labels)
    if int(labels.max()) >= scores.shape[1]:
        raise ValueError(f"labels go up to {int(labels.max())}, but scores has {scores.shape[1]} classes")
    order = scores.argsort(dim=1, descending=True, stable=True)  # (N, C)
    hits = order == labels.to(scores.device)[:, None]
    return {k: float(hits[:, :k].any(dim=1).double().mean()) for k in at}
