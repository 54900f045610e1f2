"""Texts to vectors with MiniLM."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.compare import same_directions
from benchmarks.texts import mixed
from benchmarks.work import OURS, Arrays, Bar, Case, Job, Options

TITLE = "Texts of mixed length to vectors with MiniLM"
UNIT = "texts"
MAX_LENGTH = 256
PEER = "sentence-transformers encode"
FAST = f"{OURS}, fast=True"


def ours(count: int, options: Options, *, fast: bool = False) -> Job:
    """`embed_all`, what `embed`, `evaluate` and `search` run."""
    from counterpoint.evaluation.embedding import embed_all
    from counterpoint.systems.esimcse import ESimCSE

    system = ESimCSE("minilm", pooling="mean", max_length=MAX_LENGTH, repetition=0, queue=0).to(options.device).eval()
    rows = [{"id": str(place), "text": text} for place, text in enumerate(mixed(count))]

    def encode(some: list[dict[str, str]]) -> torch.Tensor:
        return embed_all(system, some, fast=fast)[1]["embedding"]

    lengths = [len(sample["sentences"][0]) for sample in map(system.preprocess(), rows)]
    return _job(encode, rows, _flops(lengths))


def peer(count: int, options: Options) -> Job:
    """`SentenceTransformer.encode` with its defaults: batches of 32, sorted by length."""
    from sentence_transformers import SentenceTransformer

    from counterpoint.encoders.text import TextEncoder

    folder = TextEncoder("minilm").model.config.name_or_path
    model = SentenceTransformer(folder, device=options.device)
    model.max_seq_length = MAX_LENGTH
    return _job(lambda texts: model.encode(texts, convert_to_tensor=True, show_progress_bar=False), mixed(count))


def _job(encode: Any, inputs: list[Any], flops: float | None = None) -> Job:
    vectors: list[torch.Tensor] = []

    def run() -> None:
        vectors[:] = [encode(inputs)]

    def output() -> Arrays:
        return {"vectors": vectors[0].float().cpu().numpy()}

    return Job(run, output, warm=lambda: encode(inputs[:8]), flops=flops)


def _flops(lengths: list[int], layers: int = 6, width: int = 384) -> float:
    """Matrix products of MiniLM, padding not counted: 12 width^2 weights a layer, and attention twice."""
    return float(sum(layers * (2 * 12 * width**2 * length + 2 * 2 * length**2 * width) for length in lengths))


def cases(options: Options) -> list[Case]:
    """The issue's 1,500 texts."""
    count = 60 if options.tiny else 1500
    make = partial(ours, count, options)
    return [
        Case(
            name=f"{count:,} texts, {'bf16 as well as float32' if options.device == 'cuda' else 'float32'}",
            sides={
                OURS: make,
                PEER: partial(peer, count, options),
                FAST: partial(make, fast=True),
            },
            items=count,
            compare=same_directions(0.999),
            bars=[
                Bar("speed", at_least=1.6),
                Bar("speed", at_least=3.0, side=FAST),
            ],
            note="A fifth news texts, half sentences, the rest phrases of a user interface; at most 256 tokens. By "
            "default a vector of ours does not depend on its neighbours, so no batch is padded; with fast=True it may, "
            "and the products are of bfloat16. The least cosine is under agreement: 0.99999 is asked for in float32, "
            "0.999 with fast=True.",
            timeout=1800,
        )
    ]
