"""Figures, made by code: curves, claims, similarity heat maps, maps of an embedding, grids of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator
from PIL import Image

from counterpoint.reporting.claim import claim_figure
from counterpoint.reporting.style import PAPER, SERIES, Theme, finish, new_figure, shortened, styled, wrapped

__all__ = ["claim_figure", "curve_figure", "map_figure", "picture_grid", "project", "similarity_figure"]

_MOST_FOR_TSNE = 2000
_MOST_CLASSES = 10


def curve_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    guides: Mapping[str, float] | None = None,
    x_label: str = "step",
    size: tuple[float, float] = (4.2, 2.5),
    theme: Theme = PAPER,
    path: str | Path | None = None,
) -> Figure:
    """Lines over steps.

    Args:
        lines: name -> (x, y); values that are not finite leave a gap.
        title: of the figure.
        guides: name -> height of a dashed line to compare with, e.g. the loss of a guesser.
        x_label: what x counts.
        size: width and height in inches.
        theme: colours.
        path: where it is saved, .png or .svg.
    """
    with styled(theme):
        figure = new_figure(*size)
        axes = figure.add_subplot()
        for number, (name, (x, y)) in enumerate(lines.items()):
            marker = "o" if len(x) < 3 else None
            colour = SERIES[number % len(SERIES)]
            axes.plot(
                x, np.asarray(y, dtype=float), color=colour, label=shortened(name, 28), marker=marker, markersize=4
            )
        for name, height in (guides or {}).items():
            axes.axhline(height, color=theme.muted, linestyle=(0, (4, 3)), linewidth=1.2, label=shortened(name, 28))
        axes.set_title(shortened(title, 56))
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if len(lines) + len(guides or {}) > 1:
            axes.legend(fontsize=8, labelcolor=theme.ink)
        return finish(figure, path)


def similarity_figure(
    matrix: np.ndarray,
    *,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    size: tuple[float, float] = (4.2, 3.8),
    theme: Theme = PAPER,
    path: str | Path | None = None,
) -> Figure:
    """A heat map of similarities (Q, K); a bright diagonal means that pairs find each other.

    Args:
        matrix: (Q, K), larger is nearer.
        title: of the figure.
        rows, columns: labels; left out when there are more than fit.
        size: width and height in inches.
        theme: colours.
        path: where it is saved, .png or .svg.
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2:
        raise ValueError(f"matrix must be (Q, K), got {matrix.shape}")
    with styled(theme):
        figure = new_figure(*size)
        axes = figure.add_subplot()
        drawn = axes.imshow(matrix, cmap="viridis", aspect="auto", interpolation="nearest")
        axes.grid(visible=False)
        axes.set_title(shortened(title, 56))
        for labels, count, axis in ((rows, len(matrix), axes.yaxis), (columns, matrix.shape[1], axes.xaxis)):
            if len(labels) == count <= 24:
                axis.set_ticks(range(count), [shortened(label, 18) for label in labels])
            else:
                axis.set_ticks([])
        axes.tick_params(axis="x", rotation=90)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
        bar.outline.set_visible(False)
        return finish(figure, path)


def project(vectors: np.ndarray, *, method: str = "auto", seed: int = 0) -> tuple[np.ndarray, str]:
    """Vectors (N, D) -> positions (N, 2) and what was done.

    Args:
        vectors: at least 2 rows; normalised here, so that distances are those of cosines.
        method: "pca", "tsne", or "auto": t-SNE between 50 and 2000 rows, else PCA.
        seed: of t-SNE.

    Raises:
        ValueError: fewer than 2 rows, values that are not finite, or an unknown method.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"vectors must be (N, D) with N of at least 2, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors holds values that are not finite: leave those rows out")
    if method not in ("auto", "pca", "tsne"):
        raise ValueError(f"method must be 'auto', 'pca' or 'tsne', got {method!r}")
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    if method == "tsne" or (method == "auto" and 50 <= len(vectors) <= _MOST_FOR_TSNE):
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(vectors) - 1) / 3)
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(vectors)
        return points, "t-SNE"
    centred = vectors - vectors.mean(axis=0)
    left, strengths, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    kept = min(2, len(strengths))
    points[:, :kept] = left[:, :kept] * strengths[:kept]
    return points, "PCA"


def map_figure(
    points: np.ndarray,
    *,
    title: str,
    groups: Sequence[str] | None = None,
    pictures: Sequence[Image.Image] | None = None,
    size: tuple[float, float] = (6.4, 5.0),
    theme: Theme = PAPER,
    path: str | Path | None = None,
) -> Figure:
    """Positions (N, 2) as pictures, or as dots coloured by group (the ten largest have their own colour)."""
    points = np.asarray(points, dtype=float)
    with styled(theme):
        figure = new_figure(*size)
        axes = figure.add_subplot()
        axes.set_title(shortened(title, 56))
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        if pictures is not None:
            axes.scatter(points[:, 0], points[:, 1], s=0)
            for (x, y), picture in zip(points, pictures, strict=True):
                image = OffsetImage(np.asarray(picture), zoom=22 / max(picture.size))
                axes.add_artist(AnnotationBbox(image, (x, y), frameon=False, pad=0))
        else:
            _draw_groups(axes, points, groups, theme)
        return finish(figure, path)


def _draw_groups(axes: Any, points: np.ndarray, groups: Sequence[str] | None, theme: Theme) -> None:
    if groups is None:
        axes.scatter(*points.T, s=14, color=SERIES[0], alpha=0.7, linewidths=0)
        return
    names, counts = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    shown = [str(name) for name in names[np.argsort(-counts, kind="stable")][:_MOST_CLASSES]]
    others = np.array([group not in shown for group in groups])
    if others.any():
        label = f"{len(names) - len(shown)} others"
        axes.scatter(*points[others].T, s=10, color=theme.muted, alpha=0.35, linewidths=0, label=label)
    for number, name in enumerate(shown):
        own = np.array([group == name for group in groups])
        label = shortened(name, 22)
        axes.scatter(*points[own].T, s=16, color=SERIES[number], alpha=0.8, linewidths=0, label=label)
    if len(names) > 1:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=theme.ink, handletextpad=0.2)


def picture_grid(
    rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]],
    *,
    title: str,
    theme: Theme = PAPER,
    path: str | Path | None = None,
) -> Figure:
    """A row for each query: its words, then pictures with a caption each.

    Args:
        rows: (words, [(picture, caption), ...]).
        title: of the figure.
        theme: colours.
        path: where it is saved, .png or .svg.

    Raises:
        ValueError: no rows, or no pictures in any.
    """
    widest = max((len(pictures) for _, pictures in rows), default=0)
    if widest == 0:
        raise ValueError("rows is empty: give at least one query with one picture")
    with styled(theme):
        figure = new_figure(2.2 + 1.05 * widest, 0.45 + 1.2 * len(rows))
        figure.suptitle(wrapped(title, 90), x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        widths = (2.0, *[1.0] * widest)
        grid = figure.add_gridspec(len(rows), widest + 1, width_ratios=widths)
        for number, (words, pictures) in enumerate(rows):
            axes = figure.add_subplot(grid[number, 0])
            axes.axis("off")
            axes.text(0.0, 0.5, wrapped(words, 24), va="center", fontsize=9.5, transform=axes.transAxes)
            for place, (picture, caption) in enumerate(pictures):
                axes = figure.add_subplot(grid[number, place + 1])
                axes.imshow(np.asarray(picture.convert("RGB")))
                axes.axis("off")
                axes.set_title(shortened(caption, 16), fontsize=7, fontweight="normal", loc="center", color=theme.muted)
        return finish(figure, path)
