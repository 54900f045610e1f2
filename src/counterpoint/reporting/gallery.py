"""What a model does, to look at: answers to queries, neighbours, similarities, a map of the space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from counterpoint.evaluation.embedding import embed_all
from counterpoint.reporting.figures import map_figure, project, similarity_figure
from counterpoint.reporting.page import Html, Page, escape, paragraph, picture, table
from counterpoint.reporting.sample import Sample
from counterpoint.reporting.style import INLINE

__all__ = ["add_answers", "add_map", "add_neighbours", "add_predictions", "add_similarity", "answer_places"]

_ANSWERS = 10
_PROBES = 6
_MOST_PICTURES = 150
_PAIRS = 24

Answer = tuple[Image.Image | None, str, bool]
"""Picture, words, and whether it is a right one."""


def _grid(lines: Sequence[tuple[Html, Sequence[Answer]]]) -> Html:
    """What was asked beside what came back."""
    queries = []
    for asked, answers in lines:
        cells = "".join(_answer(*answer) for answer in answers)
        queries.append(f'<div class="query"><div class="asked">{asked}</div><div class="answers">{cells}</div></div>')
    return Html("<div class='grid'>" + "".join(queries) + "</div>")


def _answer(image: Image.Image | None, words: str, match: bool) -> str:
    kind = "answer match" if match else "answer"
    shown = picture(image, words) if image is not None else ""
    caption = f'<span title="{escape(words)}">{escape(words)}</span>'
    return f'<div class="{kind}">{shown}{caption}</div>'


def _probes(count: int, wanted: int) -> list[int]:
    """Rows spread evenly."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(wanted, count))})


def answer_places(sample: Sample, queries: Sequence[str], top: int = _ANSWERS) -> list[list[int]]:
    """For each text the places of the nearest pictures of the sample, nearest first.

    Raises:
        ValueError: the system embeds no texts.
    """
    rows = [{"id": str(number), "text": query} for number, query in enumerate(queries)]
    _, spaces = embed_all(sample.system, rows, columns=("text",))
    scores = sample.score(spaces["text"], sample.spaces[sample.column])  # (Q, N)
    return [np.argsort(-line, kind="stable")[:top].tolist() for line in scores]


def add_answers(page: Page, sample: Sample, queries: Sequence[str] | None) -> None:
    """Pictures found for texts: those that are given, else captions of the sample."""
    if not sample.captioned:
        return
    assert sample.texts is not None and sample.pictures is not None
    asked = list(queries) if queries else [sample.texts[place] for place in _probes(len(sample), 5)]
    lines = []
    for query, places in zip(asked, answer_places(sample, asked), strict=True):
        answers = [(sample.pictures[place], sample.texts[place], sample.texts[place] == query) for place in places]
        lines.append((escape(query), answers))
    words = f"The nearest pictures among {sample.source}, best first. "
    words += "A green frame marks a picture with this caption."
    page.section("Answers to text queries", paragraph(words, "note"), _grid(lines))


def add_neighbours(page: Page, sample: Sample) -> None:
    """For a few rows the nearest other rows: pictures where there are some, else a table of texts."""
    places = _probes(len(sample), _PROBES)
    scores = sample.score(sample.main[places], sample.main)  # (P, N)
    scores[np.arange(len(places)), places] = -np.inf
    nearest = [np.argsort(-line, kind="stable")[: min(_ANSWERS, len(sample) - 1)].tolist() for line in scores]
    if not any(nearest):
        return
    source = paragraph(f"The nearest other rows among {sample.source}, nearest first.", "note")
    if sample.pictures is None:
        rows = [
            (sample.words(place) if rank == 0 else "", sample.words(found), float(scores[line, found]))
            for line, place in enumerate(places)
            for rank, found in enumerate(nearest[line][:3])
        ]
        page.section("Neighbours", source, table(("row", "nearest rows", "similarity"), rows))
        return
    lines = []
    for place, found in zip(places, nearest, strict=True):
        words = sample.words(place)
        asked = Html(f"{picture(sample.pictures[place], words)}<small>{escape(words)}</small>")
        same = [sample.labels is not None and sample.labels[other] == sample.labels[place] for other in found]
        answers = zip(found, same, strict=True)
        lines.append((asked, [(sample.pictures[other], sample.words(other), match) for other, match in answers]))
    frames = paragraph("A green frame marks the same class.", "note") if sample.labels is not None else Html("")
    page.section("Neighbours", source, frames, _grid(lines))


def add_similarity(page: Page, sample: Sample) -> None:
    """A heat map: texts against pictures, else rows against rows, sorted by class where there are classes."""
    places = _probes(len(sample), _PAIRS if sample.captioned else 2 * _PAIRS)
    if len(places) < 2:
        return
    if sample.captioned:
        assert sample.texts is not None
        matrix = sample.score(sample.spaces["text"][places], sample.spaces[sample.column][places])
        words = "Rows are captions, columns their pictures: a bright diagonal means that the two find each other."
        names = [sample.texts[place] for place in places]
    else:
        if sample.labels is not None:
            places.sort(key=lambda place: sample.labels[place])  # type: ignore[index]
        matrix = sample.score(sample.main[places], sample.main[places])
        words = "Rows against rows" + (", sorted by class: bright blocks are classes." if sample.labels else ".")
        names = []
    figure = similarity_figure(matrix, title="similarity", rows=names, size=(6.4, 5.0), theme=INLINE)
    page.section("Similarities", page.chart(figure, "heat map of similarities", words, wide=True))


def add_map(page: Page, sample: Sample, seed: int) -> None:
    """The space in two dimensions: pictures where there are some, dots coloured by class else."""
    if len(sample) < 3:
        return
    points, how = project(sample.flat(), seed=seed)
    title = f"{how} of {len(sample)} rows"
    charts = []
    if sample.pictures is not None:
        shown = _probes(len(sample), _MOST_PICTURES)
        pictures = [sample.pictures[place] for place in shown]
        figure = map_figure(points[shown], title=title, pictures=pictures, theme=INLINE)
        charts.append(page.chart(figure, "map of the pictures", "Near each other here means alike to the model."))
    if sample.labels is not None or sample.pictures is None:
        figure = map_figure(points, title=title, groups=sample.labels, theme=INLINE)
        charts.append(page.chart(figure, "map of the rows by class", "One dot a row."))
    page.section("Map of the space", page.charts(charts, large=True))


def add_predictions(page: Page, classifier: Any, sample: Sample) -> None:
    """What a fitted classifier says about a few pictures."""
    names, places = classifier.class_names, _probes(len(sample), 4 * _PROBES)
    if sample.pictures is None:
        return
    probabilities = classifier.classify([sample.rows[place] for place in places])  # (P, K)
    answers = []
    for place, line in zip(places, probabilities, strict=True):
        best = int(line.argmax())
        name = names[best] if names is not None else str(best)
        right = sample.labels is not None and sample.labels[place] == name
        answers.append((sample.pictures[place], f"{name} {100 * float(line[best]):.0f} %", right))
    words = f"The most probable class of some of {sample.source}. A green frame marks the right ones."
    page.section("Predictions", paragraph(words, "note"), _grid([(escape("pictures"), answers)]))
