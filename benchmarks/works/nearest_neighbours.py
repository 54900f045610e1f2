"""The nearest of many texts: our table against faiss."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.rounds import ROOT
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options, Preparation

TITLE = "Ten nearest texts, by vector, in the table of `counterpoint embed`"
UNIT = "queries"
CACHE = ROOT / ".bench" / "cache"
QUERIES, TOP, NEIGHBOURS, BLOCK = 500, 10, 32, 4096
WANTED = 0.95
"""Recall that either index has to reach."""


def folder(options: Options) -> Path:
    """Where vectors, the right answers and both indexes are kept between runs."""
    return CACHE / f"nearest-{options.rows if not options.tiny else 600}"


class Stored(torch.nn.Module):
    """A model whose vectors were computed before, so that building the table is what is timed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        self.device = torch.device("cpu")

    def preprocess(self) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """A row's vector."""
        return lambda row: {"vector": torch.from_numpy(np.array(self.vectors[int(row["id"])]))}

    def collate(self, samples: list[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Stacked."""
        return {"vector": torch.stack([sample["vector"] for sample in samples])}

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """As they are."""
        return batch["vector"]


def embed_texts(options: Options) -> Mapping[str, float]:
    """MiniLM's vectors of the distinct texts of the packages, the queries apart; a killed call goes on where it was."""
    from benchmarks.texts import collection
    from counterpoint.evaluation.embedding import embed_all
    from counterpoint.systems.esimcse import ESimCSE

    target, (texts, counts) = folder(options), collection()
    target.mkdir(parents=True, exist_ok=True)
    rows = (600 if options.tiny else options.rows) + QUERIES
    if rows > len(texts):
        raise ValueError(
            f"there are {len(texts):,} distinct texts ({counts}): ask for {len(texts) - QUERIES:,} rows at most"
        )
    texts = texts[:rows]
    # The cache is of these texts: others (a package more or less) are embedded anew.
    mark = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    known = target / "texts.sha256"
    if not known.exists() or known.read_text() != mark:
        shutil.rmtree(target)
        (target / "parts").mkdir(parents=True)
        known.write_text(mark)
    system = ESimCSE("minilm", pooling="mean", max_length=256, repetition=0, queue=0).to(options.device).eval()
    for start in range(0, rows, BLOCK):
        part = target / "parts" / f"{start:08d}.npy"
        if not part.exists():
            block = texts[start : start + BLOCK]
            order = sorted(range(len(block)), key=lambda place: len(block[place]))  # little padding in a batch
            some = [{"id": str(place), "text": block[place]} for place in order]
            found = embed_all(system, some)[1]["embedding"]
            vectors = torch.empty_like(found)
            vectors[order] = torch.nn.functional.normalize(found, dim=1)
            np.save(part.with_suffix(".tmp.npy"), vectors.numpy())
            part.with_suffix(".tmp.npy").replace(part)
    rows_of = np.concatenate([np.load(part, allow_pickle=False) for part in sorted((target / "parts").glob("*.npy"))])
    np.save(target / "queries.npy", rows_of[:QUERIES])
    np.save(target / "vectors.npy", rows_of[QUERIES:])
    (target / "texts.json").write_text(json.dumps(texts[QUERIES:]))
    np.save(target / "answers.npy", _nearest(rows_of[:QUERIES], rows_of[QUERIES:]))
    sources = {f"distinct texts, {name}": float(number) for name, number in counts.items()}
    return {"rows": float(rows - QUERIES), "distinct texts": float(sum(counts.values())), **sources}


def _nearest(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(Q, TOP) exact answers, a block of rows at a time."""
    scores, places = np.full((len(queries), TOP), -np.inf, np.float32), np.zeros((len(queries), TOP), np.int64)
    for start in range(0, len(vectors), 50_000):
        block = queries @ vectors[start : start + 50_000].T
        both = np.concatenate([scores, block], axis=1)
        where = np.concatenate([places, np.broadcast_to(np.arange(block.shape[1]) + start, block.shape)], axis=1)
        best = np.argsort(-both, axis=1, kind="stable")[:, :TOP]
        scores, places = np.take_along_axis(both, best, 1), np.take_along_axis(where, best, 1)
    return places


def build_table(options: Options) -> Mapping[str, float]:
    """`counterpoint.embed`, which also builds the index (above 100,000 rows, or at any size here) and the words'."""
    from counterpoint.data import Rows
    from counterpoint.index.table import embed

    target = folder(options)
    shutil.rmtree(target / "table.lance", ignore_errors=True)
    texts = json.loads((target / "texts.json").read_text())
    rows = Rows.from_list([{"id": str(place), "text": text} for place, text in enumerate(texts)])
    embed(Stored(target / "vectors.npy"), rows, out=target / "table", rows_per_write=BLOCK, index_above=0, thumbnail=0)
    return {"megabytes on disk": _size(target / "table.lance")}


def build_faiss(options: Options) -> Mapping[str, float]:
    """HNSW over inner products of unit rows; `efSearch` is the least power of two that reaches the recall."""
    import faiss

    target = folder(options)
    vectors = np.load(target / "vectors.npy", allow_pickle=False)
    index = faiss.IndexHNSWFlat(vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(vectors)
    queries, answers = (np.load(target / f"{name}.npy", allow_pickle=False) for name in ("queries", "answers"))
    for width in (16, 32, 64, 128, 256, 512, 1024):
        index.hnsw.efSearch = width
        if recall(index.search(queries, TOP)[1], answers) >= WANTED:
            break
    faiss.write_index(index, str(target / "hnsw.faiss"))
    return {"megabytes on disk": _size(target / "hnsw.faiss"), "efSearch": float(width)}


def recall(found: np.ndarray, answers: np.ndarray) -> float:
    """Share of the right answers that were found."""
    pairs = zip(found, answers, strict=True)
    return float(np.mean([len(set(map(int, ours)) & set(map(int, theirs))) / TOP for ours, theirs in pairs]))


def _size(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 2**20


def ours(options: Options) -> Job:
    """Queries as `counterpoint.search` makes them, the query's own encoding left out."""
    from counterpoint.index.layout import open_table
    from counterpoint.index.search import _near

    held: list[Any] = []

    def open_it() -> None:
        found = open_table(folder(options) / "table")
        assert found is not None, "the table was not built"
        held[:] = [found[0]]

    def ask(query: np.ndarray) -> list[int]:
        return [int(row["id"]) for row in _near(held[0], torch.from_numpy(query), "embedding", TOP)]

    return _job(open_it, ask, options)


def peer(options: Options) -> Job:
    """The same queries, one by one."""
    import faiss

    held: list[Any] = []

    def open_it() -> None:
        held[:] = [faiss.read_index(str(folder(options) / "hnsw.faiss"))]

    return _job(open_it, lambda query: held[0].search(query[None], TOP)[1][0].tolist(), options)


def _job(open_it: Callable[[], None], ask: Callable[[np.ndarray], list[int]], options: Options) -> Job:
    queries = np.load(folder(options) / "queries.npy", allow_pickle=False)[: 50 if options.tiny else QUERIES]
    answers = np.load(folder(options) / "answers.npy", allow_pickle=False)[: len(queries)]
    found: list[list[int]] = []
    seconds: list[float] = []

    def run() -> float:
        found.clear()
        seconds.clear()
        for query in queries:
            began = time.perf_counter()
            found.append(ask(query))
            seconds.append(time.perf_counter() - began)
        return float(np.mean(seconds))

    def facts() -> Mapping[str, float]:
        milliseconds = 1000 * np.array(seconds)
        return {
            "recall@10": recall(np.array(found), answers),
            "milliseconds, median": float(np.median(milliseconds)),
            "milliseconds, 95 of 100": float(np.percentile(milliseconds, 95)),
        }

    def output() -> Arrays:
        return {}

    return Job(run, output, open=open_it, facts=facts)


def preparations(options: Options) -> list[Preparation]:
    """Vectors once, then both indexes, each in a process of its own."""
    return [
        Preparation("vectors", lambda: embed_texts(options), timeout=14_400),
        Preparation("table", lambda: build_table(options)),
        Preparation("faiss HNSW", lambda: build_faiss(options)),
    ]


def cases(options: Options) -> list[Case]:
    """As many rows as asked for."""
    if options.device != "cpu":
        return []
    rows = 600 if options.tiny else options.rows
    return [
        Case(
            name=f"{rows:,} texts, 384 dimensions",
            sides={OURS: lambda: ours(options), "faiss HNSW": lambda: peer(options)},
            bars=[Bar("recall@10", at_least=WANTED), Bar("milliseconds, 95 of 100", 20), Bar("memory", 0.5)],
            note="MiniLM's vectors of distinct texts that packages bring (WordNet, FOLDOC, an interface in 98 "
            f"languages, emoji names, news); {QUERIES} others are the queries, asked one by one. Memory: what the "
            "process takes on to open the index and answer. faiss: M 32, efConstruction 200, the least efSearch that "
            "reaches the recall.",
        )
    ]
