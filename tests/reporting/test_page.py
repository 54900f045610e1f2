"""A page is one file, escapes what people wrote, and fetches nothing."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from counterpoint.reporting.figures import curve_figure
from counterpoint.reporting.page import (
    Html,
    Page,
    code,
    details,
    escape,
    findings,
    number,
    paragraph,
    picture,
    table,
    tiles,
)
from counterpoint.reporting.style import INLINE

ATTACK = '<script>alert("x")</script>\x00\x1b[31m & \'quoted\' "more"'


class Strict(HTMLParser):
    """Fails on elements that are not closed in order, and collects what a browser would fetch or run."""

    void = {"meta", "img", "br", "path", "use"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href", "srcset", "action") and value:
                self.fetched.append(value)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()


def checked(text: str) -> Strict:
    """Parse a page; nothing may be fetched but what is in it."""
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert not parser.open
    assert all(link.startswith(("#", "data:image/")) for link in parser.fetched), parser.fetched
    assert not parser.tags & {"script", "iframe", "object", "embed", "link", "base", "form"}
    assert not re.search(r"@import|url\((?!#)", text)
    return parser


def full_page() -> str:
    page = Page(f"title {ATTACK}", f"lead {ATTACK}")
    page.intro(tiles([(ATTACK, ATTACK), ("n", 3), ("x", 0.5)]))
    figure = curve_figure({"loss": ([1, 2], [2.0, 1.0])}, title="loss", theme=INLINE)
    page.section(
        "First part",
        paragraph(ATTACK, "note"),
        code(ATTACK),
        details(ATTACK, code(ATTACK)),
        findings([("ok", ATTACK, ATTACK), ("problem", "bad", "remedy")]),
        table([ATTACK, "score"], [[ATTACK, 1.0], ["b", None]]),
        page.charts([page.chart(figure, ATTACK, ATTACK)]),
        picture(Image.new("RGBA", (300, 20), (0, 0, 0, 0)), ATTACK),
    )
    return page.render()


def test_a_page_is_whole_and_fetches_nothing() -> None:
    text = full_page()
    parser = checked(text)
    assert "default-src 'none'" in text
    assert {"nav", "svg", "table", "figure"} <= parser.tags
    assert 'href="#first-part"' in text
    assert 'id="first-part"' in text


def test_what_people_wrote_is_escaped() -> None:
    text = full_page()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x00" not in text
    assert "\x1b" not in text
    assert escape(Html("<b>")) == "<b>"
    assert escape("\ud800") == "\N{REPLACEMENT CHARACTER}"  # half a character cannot be written


def test_light_dark_and_small_screens() -> None:
    style = full_page()
    assert "prefers-color-scheme: dark" in style
    assert 'name="viewport"' in style
    assert "@media (max-width: 40rem)" in style


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (1234567, "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"),
        (0.12345, "0.1235"),
        (0.0, "0.0000"),
        (1.5e-7, "1.5e-07"),
        (float("nan"), "not finite"),
        ("word", "word"),
        (True, "True"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


def test_only_columns_of_numbers_are_set_to_the_right() -> None:
    text = table(["name", "score", "empty"], [["a", 1.0, None], ["b", None, None]])
    assert text.count('class="number"') == 3


def test_pictures_are_small_and_inside() -> None:
    text = picture(Image.new("RGB", (1000, 500), (255, 0, 0)), "red", side=64)
    data = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])  # type: ignore[index]
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (64, 32)
    assert len(data) < 2000


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    path = Page("t").write(tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert list(path.parent.iterdir()) == [path]
