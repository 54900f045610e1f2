"""Retrieval: per-query measures as trec_eval computes them, and recall between two spaces in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from counterpoint.evaluation.checks import check_features

__all__ = ["chance_metrics", "cosine", "rank_gallery", "retrieval_metrics", "same_group"]

_TILE_ELEMENTS = 4_000_000

Score = Callable[[Tensor, Tensor], Tensor]
"""(Q, D), (N, D) -> (Q, N), larger is nearer."""

Relevance = Callable[[slice], Tensor]
"""Slice of T queries -> (T, G) relevance of the gallery."""


def retrieval_metrics(scores: Tensor, relevance: Tensor, at: Sequence[int] = (1, 5, 10)) -> dict[str, Tensor]:
    """Measures of each query, with trec_eval's definitions.

    A document with relevance above 0 is relevant. nDCG uses the relevance as linear gain, discounts by
    log2(rank + 1), and divides by the best possible value over all documents cut at k. `map@k` divides by all
    relevant documents (as `map_cut`), `precision@k` by k, `mrr` looks at the whole ranking. Equal scores keep
    the order of the columns.

    Args:
        scores: (Q, N), larger is better.
        relevance: (Q, N) numbers; 0 and below is not relevant.
        at: cut-offs k, at least 1.

    Returns:
        {"ndcg@k", "recall@k", "map@k", "precision@k", "mrr": (Q,) float64 in [0, 1]}; 0 for a query that has
        no relevant document (leave such queries out of a mean).

    Raises:
        ValueError: shapes that differ, scores that are not finite, a cut-off below 1.
    """
    check_features("scores", scores)
    if scores.shape != relevance.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and relevance {tuple(relevance.shape)} must be (Q, N) alike")
    if not at or min(at) < 1:
        raise ValueError(f"at must hold cut-offs of at least 1, got {tuple(at)}")
    gain = relevance.to(scores.device).double().clamp(min=0)  # (Q, N)
    ranked = gain.gather(1, scores.argsort(dim=1, descending=True, stable=True))  # (Q, N), best first
    best = gain.sort(dim=1, descending=True).values
    hits = (ranked > 0).double()
    found = hits.cumsum(dim=1)  # relevant documents up to each rank
    total = found[:, -1].clamp(min=1)  # (Q,)
    ranks = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64, device=scores.device)
    discount = 1 / torch.log2(ranks + 1)
    precision_at_hits = (found / ranks * hits).cumsum(dim=1)
    ideal = (best * discount).cumsum(dim=1)
    actual = (ranked * discount).cumsum(dim=1)
    metrics = {"mrr": (hits / ranks).amax(dim=1)}
    for k in at:
        last = min(k, scores.shape[1]) - 1
        metrics[f"ndcg@{k}"] = actual[:, last] / ideal[:, last].masked_fill(ideal[:, last] == 0, 1)
        metrics[f"recall@{k}"] = found[:, last] / total
        metrics[f"map@{k}"] = precision_at_hits[:, last] / total
        metrics[f"precision@{k}"] = found[:, last] / k
    return metrics


def cosine(queries: Tensor, keys: Tensor) -> Tensor:
    """(Q, D), (N, D) -> (Q, N) cosines."""
    return normalize(queries.float(), dim=-1) @ normalize(keys.float(), dim=-1).T


def same_group(query_groups: Tensor, gallery_groups: Tensor) -> Relevance:
    """Gallery rows of a query's own group are right, all equally: captions of one picture, say.

    Args:
        query_groups: (Q,) integers.
        gallery_groups: (G,) integers.

    Raises:
        ValueError: a query whose group does not occur in the gallery.
    """
    lost = ~torch.isin(query_groups, gallery_groups)
    if bool(lost.any()):
        raise ValueError(
            f"{int(lost.sum())} queries have no right answer in the gallery, first query {int(lost.nonzero()[0])}"
        )
    return lambda rows: query_groups[rows, None] == gallery_groups[None, :]


def rank_gallery(
    queries: Tensor,
    gallery: Tensor,
    relevance: Relevance,
    *,
    at: Sequence[int] = (1, 5, 10),
    score: Score = cosine,
) -> dict[str, Tensor]:
    """Measures of every query against a gallery, in tiles of queries: memory is linear in the gallery.

    Args:
        queries: (Q, D), or (Q, N, D) tokens where `score` takes them.
        gallery: (G, D) or (G, N, D).
        relevance: from a slice of queries to their (T, G) relevance, e.g. `same_group(...)`.
        at: cut-offs.
        score: similarity of queries and gallery rows.

    Returns:
        The measures of `retrieval_metrics`, and `hit@k`: 1 where any right row is among the first k, which
        image-text papers call recall@k. Each (Q,) float64.
    """
    if len(queries) == 0 or len(gallery) == 0:
        raise ValueError(f"nothing to rank: {len(queries)} queries, {len(gallery)} gallery rows")
    parts: list[dict[str, Tensor]] = []
    for rows in _tiles(len(queries), len(gallery)):
        metrics = retrieval_metrics(score(queries[rows], gallery), relevance(rows), at)  # of (T, G)
        for k in at:
            metrics[f"hit@{k}"] = (metrics[f"precision@{k}"] > 0).double()
        parts.append(metrics)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _tiles(queries: int, gallery: int) -> Iterator[slice]:
    rows = max(1, _TILE_ELEMENTS // gallery)
    for start in range(0, queries, rows):
        yield slice(start, start + rows)


def chance_metrics(right: Tensor, size: int, *, at: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Expected measures of a random order of the gallery, exactly.

    With r right rows among G, none is in the first k with probability C(G - r, k) / C(G, k); each rank holds
    a right row with probability r / G.

    Args:
        right: (Q,) number of right rows of each query, all equally right, at least 1.
        size: G, rows of the gallery.
        at: cut-offs.

    Returns:
        Means over the queries of "hit@k", "recall@k", "precision@k", "ndcg@k" and "mrr".
    """
    chance: dict[str, float] = {}
    for rows, queries in zip(*(counts.tolist() for counts in right.unique(return_counts=True)), strict=True):
        for name, value in _chance_of(int(rows), size, at).items():
            chance[name] = chance.get(name, 0.0) + value * queries / len(right)
    return chance


def _chance_of(right: int, size: int, at: Sequence[int]) -> dict[str, float]:
    """`chance_metrics` of one query with `right` right rows among `size`."""
    ranks = torch.arange(size, dtype=torch.float64)  # rank - 1
    kept = ((size - right - ranks) / (size - ranks)).clamp(min=0).cumprod(0)  # (G,) no right row up to this rank
    first = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]]) - kept  # (G,) first right row at this rank
    discount = 1 / torch.log2(ranks + 2)
    chance = {"mrr": float((first / (ranks + 1)).sum())}
    for k in at:
        seen = min(k, size)
        chance[f"hit@{k}"] = float(1 - kept[seen - 1])
        chance[f"recall@{k}"] = seen / size
        chance[f"precision@{k}"] = right * seen / size / k
        chance[f"ndcg@{k}"] = float(right / size * discount[:seen].sum() / discount[: min(right, seen)].sum())
    return chance
