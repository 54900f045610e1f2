"""`export`: plain weights for other libraries, loaded again by them and compared before anybody relies on it."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from counterpoint import storage
from counterpoint.evaluation.embedding import DEFAULT_SPACE, embed_all, inference
from counterpoint.evaluation.samples import MissingColumn
from counterpoint.export.source import Encode, Source, open_source
from counterpoint.run import Run

__all__ = ["compare", "export", "list_formats"]

TOLERANCE = 1e-4
"""Largest difference that is accepted, relative to the largest value (at least 1)."""
_FORMATS = "counterpoint.export.formats"
_TOP = 10
_TIE = 1e-6


def list_formats() -> list[str]:
    """Names of the formats."""
    package = importlib.import_module(_FORMATS)
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(package.__path__))


def _format(name: str) -> ModuleType:
    # "open_clip" is spelled with an underscore by its own authors, "sentence-transformers" is not
    wanted, known = name.strip().lower().replace("_", "-"), list_formats()
    if wanted not in known:
        near = get_close_matches(wanted, known, n=2, cutoff=0.4) or known
        raise ValueError(f"no format is called {name!r}; nearest: {', '.join(near)} (there are {', '.join(known)})")
    return importlib.import_module(f"{_FORMATS}.{wanted.replace('-', '_')}")


def export(
    run: str | Path | Run,
    out: str | Path,
    *,
    format: str = "safetensors",
    data: Any = None,
    samples: int = 32,
) -> dict[str, Any]:
    """Write a run's encoder for another library, load it with that library, and measure that both agree.

    Vectors are those of the encoder, not normalised. Heads that only training needs are left behind.

    Args:
        run: the run directory.
        out: a new or empty directory.
        format: "safetensors" (plain state dicts under the other library's names), "timm", "transformers",
            "sentence-transformers", "open_clip" or "onnx".
        data: rows to compare on, whatever `open_rows` takes; by default the run's own data.
        samples: how many of them.

    Returns:
        {"format", "path", "files", "parity": {tower: {"max_difference", "top10_agreement", "samples"}},
        "checked_with", "compared_on", "notes", "usage"}; also in parity.json beside the weights.
        `max_difference` is the largest absolute difference of a number, `top10_agreement` the share of the ten
        nearest neighbours of each sample that both agree on, in [0, 1].

    Raises:
        ValueError: the format cannot hold this encoder, `out` is taken, or what was written does not agree (then
            nothing is left in `out`).
    """
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    chosen = _format(format)
    target = Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"out={target} is taken: give a new directory")
    source = open_source(run if isinstance(run, Run) else Run(run), data, samples)
    reason = chosen.refuses(source)
    if reason:
        raise ValueError(f"{source.run.system_name} cannot be exported as {format!r}: {reason}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".counterpoint-", dir=target.parent) as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        with inference(source.system):
            chosen.write(source, folder)
            found, checked_with = chosen.read(source, folder)
            parity = {name: compare(source, name, encode) for name, encode in found.items()}
            notes = _notes(source)
        _refuse_difference(format, parity)
        result = {
            "format": format,
            "path": str(target),
            "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
            "parity": {name: {k: v for k, v in values.items() if k != "allowed"} for name, values in parity.items()},
            "checked_with": checked_with,
            "compared_on": source.compared_on,
            "notes": notes,
            "usage": chosen.usage(source, target),
        }
        storage.write_json(folder / "parity.json", result)
        if target.exists():
            target.rmdir()
        shutil.move(str(folder), str(target))
    return result


def compare(source: Source, tower: str, encode: Encode) -> dict[str, float]:
    """How far another computation of a tower is from ours, on the source's inputs."""
    ours = source.towers[tower]
    expected, got = ours.encode(ours.inputs).float(), encode(ours.inputs).float()
    if expected.shape != got.shape:
        raise ValueError(f"the exported {tower} tower gives {tuple(got.shape)}, the run {tuple(expected.shape)}")
    return {
        "max_difference": float((expected - got).abs().max()),
        "top10_agreement": _agreement(expected, got),
        "samples": len(expected),
        "allowed": TOLERANCE * max(1.0, float(expected.abs().max())),
    }


def _agreement(expected: Tensor, got: Tensor) -> float:
    """Share of the ten nearest other samples, by cosine, that two sets of vectors (N, D) agree on.

    Samples as near as the tenth, to rounding, stand in for each other.
    """
    top = min(_TOP, len(expected) - 1)
    cosines = []
    for vectors in (expected, got):
        unit = normalize(vectors.double(), dim=1)
        cosines.append((unit @ unit.T).fill_diagonal_(-2.0))  # (N, N)
    last = cosines[0].topk(top, dim=1).values[:, -1:]  # (N, 1)
    chosen = cosines[0].gather(1, cosines[1].topk(top, dim=1).indices)  # (N, top)
    return float((chosen >= last - _TIE).double().mean())


def _notes(source: Source) -> list[str]:
    """What a user of the exported encoder has to know: where the system itself computes something else from it."""
    notes = []
    for name, tower in source.towers.items():
        rows = [{"id": str(place), "text": text} for place, text in enumerate(source.texts)]
        if name == "image":
            found = source.system.embed({"image": tower.inputs["images"].to(source.system.device)})
        else:
            try:
                found = embed_all(source.system, rows, columns=("text",))[1]
            except MissingColumn:  # a classifier of pictures: its text tower named the classes, no more
                continue
        vectors = found if isinstance(found, Tensor) else found.get(name, found.get(DEFAULT_SPACE))
        own = tower.encode(tower.inputs).float()
        if vectors is None or vectors.shape != own.shape or not _parallel(vectors.float(), own):
            notes.append(
                f"{source.run.system_name} computes its own {name} embedding from the encoder's inner features, "
                "not from this vector: see its docs page"
            )
    return notes


def _parallel(first: Tensor, second: Tensor) -> bool:
    return bool((normalize(first, dim=1) - normalize(second, dim=1)).abs().max() <= TOLERANCE)


def _refuse_difference(name: str, parity: Mapping[str, Mapping[str, float]]) -> None:
    for tower, found in parity.items():
        if not found["max_difference"] <= found["allowed"]:
            raise ValueError(
                f"the {name} export of the {tower} tower differs from the run by {found['max_difference']:.2e} "
                f"(allowed {found['allowed']:.0e}): nothing was kept; please report this"
            )
