"""How figures look: colours for paper, and colours that a page replaces by its own in light and dark."""

from __future__ import annotations

import html
import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from counterpoint.storage import write_bytes

__all__ = [
    "INLINE",
    "PAPER",
    "SERIES",
    "Theme",
    "finish",
    "inline_svg",
    "new_figure",
    "printable",
    "save_figure",
    "shortened",
    "styled",
    "wrapped",
]

SERIES = (
    "#3b82f6",
    "#e8863a",
    "#14a37f",
    "#d9488b",
    "#8b5cf6",
    "#7a8699",
    "#c2a21c",
    "#2aa5c4",
    "#b3563b",
    "#6b8e23",
)
"""Colours of lines and groups, readable on white and on near-black."""


@dataclass(frozen=True)
class Theme:
    """Colours of what is not data.

    Attributes:
        ink: text.
        muted: axes, ticks, guide lines.
        grid: grid lines.
        paper: background, or "none".
    """

    ink: str
    muted: str
    grid: str
    paper: str


PAPER = Theme(ink="#1c2430", muted="#6a7482", grid="#e3e7ec", paper="#ffffff")
"""For files: dark on white."""
INLINE = Theme(ink="#010101", muted="#020202", grid="#030303", paper="none")
"""For a page: `inline_svg` turns these into the page's own colours."""
_IN_PAGE = {INLINE.ink: "currentColor", INLINE.muted: "var(--muted)", INLINE.grid: "var(--grid)"}


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """matplotlib's settings while a figure is made; those of the user are untouched."""
    settings: Any = {
        "font.size": 9,
        "font.family": "sans-serif",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "text.color": theme.ink,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "svg.fonttype": "none",
        "svg.hashsalt": "counterpoint",
    }
    with mpl.rc_context(settings):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of (width, height) inches that needs no display and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as .png or .svg, whole or not at all; the same figure gives the same bytes.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"a figure is saved as .png or .svg, got {path.name!r}")
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "counterpoint", "svg.fonttype": "none"}):
        metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_bytes(path, buffer.getvalue())


def finish(figure: Figure, path: str | Path | None) -> Figure:
    """The figure, saved when a path is given."""
    if path is not None:
        save_figure(figure, path)
    return figure


def printable(text: str) -> str:
    """Text without control characters and halves of characters, which no page and no figure may hold."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", text)


def shortened(text: str, most: int) -> str:
    """One line of at most so many characters, with nothing in it that matplotlib takes for mathematics."""
    text = " ".join(printable(str(text)).split())
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(printable(str(text)).replace("$", r"\$"), width)) or " "


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """A figure of the theme `INLINE` as an <svg> element with the colours and font of the page around it.

    Args:
        figure: made with `styled(INLINE)`.
        name: unique within the page; keeps the element's internal links apart from those of other figures.
        label: what the figure shows, for screen readers.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, replacement in _IN_PAGE.items():
        text = text.replace(colour, replacement)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    quoted = html.escape(printable(label), quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1)
