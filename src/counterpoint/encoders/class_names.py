"""Class names for a CLIP's text tower: bare, whose vectors a frozen tower computes once, or in prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterpoint.encoders.clip import ClipEncoder

__all__ = ["FrozenNames", "bare_names", "prompt_tokens"]


def bare_names(encoder: ClipEncoder, names: Sequence[str]) -> Tensor:
    """(K, D) of the names without a template, "_" read as a blank; not normalised."""
    return encoder.encode_text(_tokens(encoder, [name.replace("_", " ") for name in names]))


def prompt_tokens(encoder: ClipEncoder, names: Sequence[str], templates: Sequence[str]) -> dict[str, Tensor]:
    """Tokens (C * T, L) of every name in every template, all templates of the first name first.

    Raises:
        ValueError: no name, no template, or a template without {}.
    """
    if not names or not templates or not all("{}" in template for template in templates):
        raise ValueError("classify needs at least one class name and templates that hold {} for it")
    return _tokens(encoder, [template.replace("{}", name) for name in names for template in templates])


def _tokens(encoder: ClipEncoder, texts: Sequence[str]) -> dict[str, Tensor]:
    return {name: rows.to(encoder.logit_scale.device) for name, rows in encoder.tokenize(texts).items()}


class FrozenNames:
    """`bare_names` without gradient; the last answer is kept until names, weights or arithmetic change."""

    def __init__(self) -> None:
        self._known: tuple[object, Tensor] | None = None

    def __call__(self, encoder: ClipEncoder, names: Sequence[str]) -> Tensor:
        """(K, D)."""
        weights = [encoder.get_parameter(name) for name in encoder.text_parameters()]
        mixed = torch.is_autocast_enabled(encoder.logit_scale.device.type)
        key = (tuple(names), mixed, [(parameter.data_ptr(), parameter._version) for parameter in weights])
        if self._known is None or self._known[0] != key:
            with torch.no_grad():
                self._known = key, bare_names(encoder, names)
        return self._known[1]
