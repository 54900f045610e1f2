"""GDA-CLIP: Gaussian discriminant analysis on frozen CLIP features, added to the zero-shot classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from counterpoint.data.folds import check_labels, grouped_folds, search_alpha, unit_rows
from counterpoint.gaussians import classes_from_texts, fit_classes, fit_unlabelled
from counterpoint.system import Estimator

__all__ = ["GDACLIP"]

ALPHAS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
EM_ALPHA = 10.0


class GDACLIP(Estimator):
    """Training-free CLIP adaptation: class means and one covariance are a classifier (arXiv 2402.04087).

    Features and texts are normalised, everything is computed in double precision.

    Args:
        mode: "few_shot" estimates every class from its images; "base_to_new" also makes a head for classes
            that have a text but no image; "unsupervised" needs no labels (EM); "auto" takes the one that the
            data allow.
        alpha: weight of the Gaussian head; by default the best of `alphas` on the validation rows, without
            those in 5 folds over the source images. Unsupervised it is 10 by default: nothing can choose it.
        alphas: values that are tried.
        logit_scale: of the zero-shot classifier.
        neighbours: base images that stand in for a new class.
        text_repeats: times the text counts among them.
        iterations: most steps of EM; it ends when no label changes.

    Attributes:
        text_: (D, K) zero-shot weights. weight_, bias_: (D, K), (K,) Gaussian head. alpha_: its weight.
        means_, precision_: (K, D), (D, D), of the classes with images. new_means_: those made from texts.
        validation_accuracy_: of `alpha_` where it was chosen, else None.
    """

    paper = "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation (arXiv 2402.04087)"
    text_: Tensor
    weight_: Tensor
    bias_: Tensor
    means_: Tensor
    precision_: Tensor
    alpha_: float
    validation_accuracy_: float | None

    def __init__(
        self,
        mode: Literal["auto", "few_shot", "base_to_new", "unsupervised"] = "auto",
        alpha: float | None = None,
        alphas: tuple[float, ...] = ALPHAS,
        logit_scale: float = 100.0,
        neighbours: int = 64,
        text_repeats: int = 16,
        iterations: int = 10,
    ) -> None:
        self.mode, self.alpha, self.alphas, self.logit_scale = mode, alpha, alphas, logit_scale
        self.neighbours, self.text_repeats, self.iterations = neighbours, text_repeats, iterations

    def fit(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        *,
        text_features: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        groups: Tensor | None = None,
    ) -> GDACLIP:
        """Estimate the head.

        Args:
            features: (N, D) image features; augmented copies are further rows.
            labels: (N,) in [0, K); None for EM.
            text_features: (K, D), one a class (mean of its normalised prompts). Without it the Gaussian head
                stands alone.
            validation: (features, labels) to choose `alpha` on.
            groups: (N,) number of the image that a row is a copy of; each row its own by default.

        Raises:
            ValueError: neither labels nor texts, a class without image or text, shapes that do not fit.
        """
        features = unit_rows("features", features)
        text = None if text_features is None else unit_rows("text_features", text_features)
        mode = ("unsupervised" if labels is None else "few_shot") if self.mode == "auto" else self.mode
        if mode == "unsupervised":
            return self._fit_without_labels(features, text)
        if labels is None:
            raise ValueError(f"mode {mode!r} needs labels; without any use mode='unsupervised'")
        counts = check_labels(features, labels, None if text is None else len(text))
        self.text_ = features.new_zeros(features.shape[1], len(counts)) if text is None else text.T
        base = counts.nonzero()[:, 0]  # (B,) classes with images
        if len(base) < len(counts) and (text is None or self.mode == "few_shot"):
            empty = (counts == 0).nonzero()[:, 0].tolist()
            raise ValueError(f"classes {empty} have no image; mode 'base_to_new' makes their head from text_features")
        new = self.mode == "base_to_new" or len(base) < len(counts)
        self._fit_base(features, torch.searchsorted(base, labels), base, validation, groups, ridge=not new)
        if len(base) < len(counts):
            self._add_new_classes(features, (counts == 0).nonzero()[:, 0])
        return self

    def _fit_base(
        self,
        features: Tensor,
        labels: Tensor,
        base: Tensor,
        validation: tuple[Tensor, Tensor] | None,
        groups: Tensor | None,
        ridge: bool,
    ) -> None:
        """Head of the classes with images, and alpha."""
        self.means_, self.precision_, weight, bias = fit_classes(features, labels, len(base), ridge=ridge)
        self.weight_ = torch.zeros_like(self.text_).index_copy_(1, base, weight)
        self.bias_ = torch.zeros_like(self.text_[0]).index_copy_(0, base, bias)
        if not bool(self.precision_.any()):
            warnings.warn("one image a class and no copies: no covariance, the prediction is zero-shot", stacklevel=3)
        text = self.logit_scale * self.text_[:, base]  # (D, B)
        self.alpha_, self.validation_accuracy_ = 1.0 if self.alpha is None else self.alpha, None
        if self.alpha is not None or not bool(self.text_.any()):
            return
        if validation is not None:
            rows, found = unit_rows("validation features", validation[0]), validation[1]
            known = torch.isin(found, base)
            rows, found = rows[known], torch.searchsorted(base, found[known])
            logits = [(rows @ text, rows @ weight + bias, found)]
        else:
            fold = grouped_folds(labels, groups)
            logits = []
            for held in fold[fold >= 0].unique():
                out, kept = fold == held, fold != held
                *_, weight, bias = fit_classes(features[kept], labels[kept], len(base), ridge=ridge)
                logits.append((features[out] @ text, features[out] @ weight + bias, labels[out]))
        if not sum(len(found) for *_, found in logits):
            warnings.warn("one image a class and no validation rows: alpha is 1", stacklevel=3)
            return
        zero_shot, head, found = (torch.cat(parts) for parts in zip(*logits, strict=True))
        self.alpha_, self.validation_accuracy_ = search_alpha(zero_shot, head, found, self.alphas)

    def _add_new_classes(self, features: Tensor, new: Tensor) -> None:
        """Head of the classes that have a text but no image; alpha is that of the base classes."""
        texts = self.text_.T[new]  # (C, D)
        found = classes_from_texts(features, texts, neighbours=self.neighbours, repeats=self.text_repeats)
        self.new_means_ = found.means
        self.weight_.index_copy_(1, new, found.weight)
        self.bias_.index_copy_(0, new, found.bias)

    def _fit_without_labels(self, features: Tensor, text: Tensor | None) -> GDACLIP:
        """EM: soft labels from the ensemble, head from the soft labels."""
        if text is None:
            raise ValueError("features without labels need text_features: EM starts from the zero-shot classes")
        self.text_, self.validation_accuracy_ = text.T, None
        self.alpha_ = EM_ALPHA if self.alpha is None else self.alpha
        zero_shot = self.logit_scale * features @ self.text_  # (N, K)
        found = fit_unlabelled(features, zero_shot, alpha=self.alpha_, iterations=self.iterations)
        self.means_, self.precision_, self.weight_, self.bias_ = found
        return self

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K): logit_scale f T + alpha (f W + b), in double precision."""
        features = unit_rows("features", features)
        zero_shot = self.logit_scale * features @ self.text_.to(features)
        return zero_shot + self.alpha_ * (features @ self.weight_.to(features) + self.bias_.to(features))

    def predict_proba(self, features: Tensor, *, classes: Sequence[int] | None = None) -> Tensor:
        """(N, D) -> (N, K), rows sum to one; `classes` chooses columns (base or new classes alone)."""
        logits = self.logits(features)
        return (logits if classes is None else logits[:, list(classes)]).softmax(dim=1)
