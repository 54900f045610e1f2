"""A page that is one file: styles inside, pictures inside, nothing fetched when it is looked at."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from counterpoint.reporting.style import inline_svg, printable
from counterpoint.storage import write_text

__all__ = ["Html", "Page", "code", "details", "escape", "findings", "paragraph", "picture", "table", "tiles"]


class Html(str):
    """Text that is HTML already; every other text is escaped where it enters a page."""

    __slots__ = ()


def escape(value: Any) -> Html:
    """Any value as HTML; `Html` stays as it is. Control characters, which no page may hold, become a box."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(printable(str(value)), quote=True))


def paragraph(text: Any, kind: str = "") -> Html:
    """A paragraph, "lead" and "note" in a quieter colour."""
    return Html(f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")


def code(text: str) -> Html:
    """A block to copy from."""
    return Html(f"<pre><code>{escape(text)}</code></pre>")


def details(summary: str, content: Html) -> Html:
    """Content that is folded away."""
    return Html(f"<details><summary>{escape(summary)}</summary>{content}</details>")


def number(value: Any) -> str:
    """A number as people write it: four digits after the point at most, none for whole ones."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """A table; columns that hold numbers are set to the right."""
    rows = [list(row) for row in rows]
    numeric = [
        any(isinstance(row[place], int | float) for row in rows)
        and all(isinstance(row[place], int | float | None) for row in rows)
        for place in range(len(columns))
    ]
    kinds = [' class="number"' if found else "" for found in numeric]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, columns, strict=True))
    lines = []
    for row in rows:
        cells = zip(kinds, row, strict=True)
        lines.append("".join(f"<td{kind}>{_cell(value)}</td>" for kind, value in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _cell(value: Any) -> Html:
    return escape("" if value is None else value if isinstance(value, Html) else number(value))


def tiles(facts: Iterable[tuple[str, Any]]) -> Html:
    """Large figures with a word below each: (word, value)."""
    found = "".join(
        f'<div class="tile"><b>{_cell(value)}</b><span>{escape(name)}</span></div>' for name, value in facts
    )
    return Html(f'<div class="tiles">{found}</div>')


def findings(found: Iterable[tuple[str, str, str]]) -> Html:
    """What is good and what is not: (severity "ok", "note" or "problem", message, remedy)."""
    blocks = (
        f'<div class="finding {escape(severity)}"><b>{escape(message)}</b><span>{escape(remedy)}</span></div>'
        for severity, message, remedy in found
    )
    return Html("".join(blocks))


def picture(image: Image.Image, label: str, side: int = 128) -> Html:
    """An <img> with the picture inside, at most `side` pixels; transparent parts become white."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Html(f'<img alt="{escape(label)}" loading="lazy" src="data:image/jpeg;base64,{data}">')


class Page:
    """Sections one after another, with a list of links to them on top.

    Args:
        title: of the page.
        lead: a line below it.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title, self.lead = title, lead
        self._intro: list[Html] = []
        self._sections: list[tuple[str, list[Html]]] = []
        self._figures = 0

    def intro(self, content: Html) -> None:
        """Add what stands before the first section."""
        self._intro.append(content)

    def section(self, title: str, *content: Html) -> None:
        """Add a section."""
        self._sections.append((title, list(content)))

    def chart(self, figure: Figure, label: str, caption: str = "", *, wide: bool = False) -> Html:
        """A figure of the theme `INLINE` as part of the page."""
        self._figures += 1
        svg = inline_svg(figure, f"figure{self._figures}", label)
        words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        kind = ' class="wide"' if wide else ""
        return Html(f"<figure{kind}>{svg}{words}</figure>")

    def charts(self, found: Iterable[Html], *, large: bool = False) -> Html:
        """Figures side by side, below each other on a small screen."""
        kind = "charts large" if large else "charts"
        return Html(f'<div class="{kind}">' + "".join(found) + "</div>")

    def render(self) -> str:
        """The whole page."""
        names = {title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title, _ in self._sections}
        links = "".join(f'<a href="#{names[title]}">{escape(title)}</a>' for title, _ in self._sections)
        sections = "".join(
            f'<section id="{names[title]}"><h2>{escape(title)}</h2>{"".join(content)}</section>'
            for title, content in self._sections
        )
        style = (resources.files("counterpoint.reporting") / "page.css").read_text(encoding="utf-8")
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "img-src data:; style-src 'unsafe-inline'\">"
            f"<title>{escape(self.title)}</title><style>{style}</style></head>\n<body>"
            f'<header><h1>{escape(self.title)}</h1><p class="lead">{escape(self.lead)}</p></header>'
            f'{"".join(self._intro)}<nav aria-label="Sections">{links}</nav>\n<main>{sections}</main>'
            "<footer>Made by counterpoint. Everything on this page is inside this file.</footer>"
            "</body></html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_text(path, self.render())
