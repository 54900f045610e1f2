"""A class for each row: by the model's own `classify`, or by the nearest of given class names; pictures and clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from counterpoint.data import BadRow, Rows
from counterpoint.evaluation.embedding import Skipped, embed_all, embed_rows
from counterpoint.evaluation.model import Model
from counterpoint.evaluation.scoring import answers_rows, system_score, takes_names
from counterpoint.evaluation.zero_shot import TEMPLATES, prompts, zero_shot_scores
from counterpoint.predict.options import Options

__all__ = ["answers", "offered"]

_SHARPNESS = 100.0  # CLIP's upper bound of the logit scale, for models that do not say theirs


def offered(model: Any, options: Options) -> bool:
    """Models with a `classify` method; image-text models when classes are given."""
    return hasattr(model, "classify") or (bool(options.class_names) and hasattr(model, "embed"))


def answers(opened: Model, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    """One line a row: id, label, probability, and the best classes with their probabilities.

    Raises:
        ValueError: classes were given to a model that has its own and takes no others, or that does not embed texts.
    """
    if not answers_rows(opened.system):
        if not options.class_names:
            name = type(opened.system).__name__
            raise ValueError(f"{name} has to be told its classes: classes='red,green', or a text file with one a line")
        yield from _zero_shot(opened.system, rows, options, skipped)
        return
    if options.class_names and not takes_names(opened.system):
        raise ValueError("this model has its own classes: leave out `classes`")
    names = options.class_names or getattr(opened.system, "class_names", None)
    for ids, probabilities in _classified(opened.system, rows, options, skipped):
        yield from _lines(ids, probabilities, names, options.top)


def _lines(
    ids: Sequence[str], probabilities: Tensor, names: Sequence[str] | None, top: int
) -> Iterator[Mapping[str, Any]]:
    best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    for identity, values, places in zip(ids, best.values.tolist(), best.indices.tolist(), strict=True):
        labels = [str(place) if names is None else names[place] for place in places]
        ranked = [{"label": label, "probability": value} for label, value in zip(labels, values, strict=True)]
        yield {"id": identity, **ranked[0], "top": ranked}


def _zero_shot(system: Any, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[Mapping[str, Any]]:
    names = list(options.class_names)
    wanted = prompts([name.replace("_", " ") for name in names], TEMPLATES)
    try:
        _, spaces = embed_all(system, [{"id": text, "text": text} for text in wanted], columns=("text",))
    except ValueError as error:
        raise ValueError(f"{type(system).__name__} cannot classify by class names: {error}") from error
    if "text" not in spaces:
        raise ValueError(f"{type(system).__name__} has no space shared by images and texts: it cannot use `classes`")
    texts = spaces["text"].unflatten(0, (len(names), -1))  # (C, T, D)
    media = "image" if "image" in rows.columns else "video"
    scale = _logit_scale(system)
    own = system_score(system)
    for ids, found in embed_rows(
        system, rows, batch=options.batch, workers=options.workers, columns=(media,), skipped=skipped
    ):
        scores = zero_shot_scores(found[media], texts, score=own)
        yield from _lines(ids, (scale * scores).softmax(dim=1), names, options.top)


def _logit_scale(system: Any) -> float:
    """exp of the learned log scale of the cosines, where the model has one."""
    for owner in (system, getattr(system, "encoder", None)):
        scale = getattr(owner, "logit_scale", None)
        if isinstance(scale, Tensor):
            return float(scale.detach().float().exp())
    return _SHARPNESS


def _classified(model: Any, rows: Rows, options: Options, skipped: list[Skipped]) -> Iterator[tuple[list[str], Tensor]]:
    """ids and (B, K) probabilities of some rows at a time; a batch with a bad row is done row by row."""
    block: list[Mapping[str, Any]] = []
    told = {"class_names": options.class_names} if options.class_names else {}
    for place, row in enumerate(rows.scan()):
        if isinstance(row, BadRow):
            skipped.append(Skipped(rows.row_id(place), str(row)))
        else:
            block.append(row)
        if len(block) == options.batch:
            yield from _classify_block(model, block, told, skipped)
            block = []
    if block:
        yield from _classify_block(model, block, told, skipped)


def _classify_block(
    model: Any, block: list[Mapping[str, Any]], told: Mapping[str, Any], skipped: list[Skipped]
) -> Iterator[tuple[list[str], Tensor]]:
    try:
        yield [row["id"] for row in block], model.classify(block, **told)
    except BadRow as error:
        if len(block) == 1:
            skipped.append(Skipped(block[0]["id"], str(error)))
            return
        for row in block:
            yield from _classify_block(model, [row], told, skipped)
