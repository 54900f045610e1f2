"""A system's own similarity, where it has one."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from counterpoint.evaluation.embedding import inference
from counterpoint.evaluation.retrieval import Score
from counterpoint.system import System

__all__ = ["answers_rows", "system_score", "takes_names"]

_TILE_ELEMENTS = 8_000_000


def system_score(system: object) -> Score | None:
    """`System.score` where a paper overrides it (late interaction), on the system's device; else None.

    Computed in tiles: comparing all tokens of all rows at once would need memory for every pair of tokens.
    """
    if not isinstance(system, System) or type(system).score is System.score:
        return None

    def tile(queries: Tensor, keys: Tensor) -> Tensor:
        with inference(system):
            return system.score(queries.to(system.device), keys.to(system.device)).float().cpu()

    def score(queries: Tensor, keys: Tensor) -> Tensor:
        """(Q, ...), (K, ...) -> (Q, K)."""
        tokens = _tokens(queries) * _tokens(keys)
        wide = max(1, _TILE_ELEMENTS // tokens)
        high = max(1, _TILE_ELEMENTS // (tokens * min(wide, len(keys))))
        rows = [torch.cat([tile(q, k) for k in keys.split(wide)], dim=1) for q in queries.split(high)]
        return torch.cat(rows)

    return score


def _tokens(rows: Tensor) -> int:
    """Tokens of each row; 1 for plain vectors."""
    return rows.shape[1] if rows.dim() == 3 else 1


def answers_rows(model: object) -> bool:
    """Whether a model has classes of its own: its `classify` needs rows and nothing else."""
    method = getattr(model, "classify", None)
    if method is None:
        return False
    names = inspect.signature(method).parameters.get("class_names")
    return names is None or names.default is not names.empty


def takes_names(model: object) -> bool:
    """Whether such a model may be told other classes: its `classify` takes rows and, if wanted, `class_names`."""
    return answers_rows(model) and "class_names" in inspect.signature(model.classify).parameters  # type: ignore[attr-defined]
