"""Tip-Adapter without training: labelled images are a cache beside the zero-shot classifier."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from counterpoint.data.folds import check_labels, grouped_folds, search_alpha, unit_rows
from counterpoint.system import Estimator

__all__ = ["TipAdapter", "cache_logits"]


def cache_logits(features: Tensor, keys: Tensor, values: Tensor, *, beta: float) -> Tensor:
    """exp(-beta (1 - f X^T)) Y, the affinity of each row to the cached images, summed by class.

    Args:
        features: (N, D) unit rows.
        keys: (M, D) unit rows X.
        values: (M, K) one-hot labels Y.
        beta: sharpness, at least 0.

    Returns:
        (N, K).
    """
    return torch.exp(-beta * (1 - features @ keys.T)) @ values


class TipAdapter(Estimator):
    """Training-free CLIP adaptation with a cache of labelled image features (arXiv 2111.03930).

    Args:
        alpha: weight of the cache; by default the best of `alphas` on the validation rows, without those in
            5 folds over the source images. With one image a class it is 1.
        beta: sharpness of the affinity; by default the best of `betas`, chosen with `alpha`, else 5.5.
        alphas, betas: values that are tried.
        logit_scale: of the zero-shot classifier.

    Attributes:
        text_: (D, K) zero-shot weights. keys_, values_: (M, D) image features, (M, K) one-hot labels.
        alpha_, beta_: the weights in use. validation_accuracy_: theirs where they were chosen, else None.
    """

    paper = "Tip-Adapter: Training-free CLIP-Adapter for Better Vision-Language Modeling (arXiv 2111.03930)"
    text_: Tensor
    keys_: Tensor
    values_: Tensor
    alpha_: float
    beta_: float
    validation_accuracy_: float | None

    def __init__(
        self,
        alpha: float | None = None,
        beta: float | None = None,
        alphas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
        betas: tuple[float, ...] = (0.5, 1.0, 2.0, 5.5, 10.0, 20.0, 50.0, 100.0, 200.0),
        logit_scale: float = 100.0,
    ) -> None:
        self.alpha, self.beta, self.alphas, self.betas = alpha, beta, alphas, betas
        self.logit_scale = logit_scale

    def fit(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        *,
        text_features: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
        groups: Tensor | None = None,
    ) -> TipAdapter:
        """Fill the cache and choose its weight and sharpness.

        Args:
            features: (N, D) image features; augmented copies are further rows.
            labels: (N,) in [0, K).
            text_features: (K, D), one a class; without it the cache stands alone.
            validation: (features, labels) to choose on.
            groups: (N,) number of the image that a row is a copy of; each row its own by default.

        Raises:
            ValueError: no labels, or shapes that do not fit.
        """
        if labels is None:
            raise ValueError("tip_adapter needs labels: the cache is made of labelled images")
        self.keys_ = unit_rows("features", features)
        text = None if text_features is None else unit_rows("text_features", text_features)
        classes = len(check_labels(features, labels, None if text is None else len(text)))
        self.text_ = self.keys_.new_zeros(features.shape[1], classes) if text is None else text.T
        self.values_ = one_hot(labels, classes).to(self.keys_)  # (N, K)
        self.alpha_ = 1.0 if self.alpha is None else self.alpha
        self.beta_ = 5.5 if self.beta is None else self.beta
        self.validation_accuracy_ = None
        if self.alpha is None or self.beta is None:
            self._choose(labels, validation, groups)
        return self

    def _choose(self, labels: Tensor, validation: tuple[Tensor, Tensor] | None, groups: Tensor | None) -> None:
        """Best alpha and beta; the first best wins."""
        if validation is not None:
            held = [(unit_rows("validation features", validation[0]), validation[1], slice(None))]
        else:
            fold = grouped_folds(labels, groups)
            held = [(self.keys_[fold == k], labels[fold == k], fold != k) for k in fold[fold >= 0].unique()]
        if not held:
            warnings.warn("one image a class and no validation rows: alpha and beta are not chosen", stacklevel=3)
            return
        found = torch.cat([truth for _, truth, _ in held])
        zero_shot = torch.cat([self.logit_scale * rows @ self.text_ for rows, _, _ in held])
        best = 0.0
        betas = self.betas if self.beta is None else (self.beta,)
        alphas = self.alphas if self.alpha is None else (self.alpha,)
        for beta in betas:
            parts = [cache_logits(x, self.keys_[kept], self.values_[kept], beta=beta) for x, _, kept in held]
            cached = torch.cat(parts)  # (V, K)
            alpha, accuracy = search_alpha(zero_shot, cached, found, alphas)
            if accuracy > best:
                best, self.alpha_, self.beta_ = accuracy, alpha, beta
        self.validation_accuracy_ = best

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K): logit_scale f T + alpha exp(-beta (1 - f X^T)) Y."""
        features = unit_rows("features", features)
        cached = cache_logits(features, self.keys_.to(features), self.values_.to(features), beta=self.beta_)
        return self.logit_scale * features @ self.text_.to(features) + self.alpha_ * cached

    def predict_proba(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K), rows sum to one."""
        return self.logits(features).softmax(dim=1)
