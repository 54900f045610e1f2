"""Which emoji are variants of one concept, from their English names (Unicode CLDR short names)."""

from __future__ import annotations

import re

__all__ = ["concept", "is_flag"]

_SKIN = re.compile(r" (?:medium-light|medium-dark|light|medium|dark) skin tone")
_HAIR = re.compile(r" (?:blond|red|curly|white) hair$| bald$| beard$")
_DIRECTION_END = re.compile(r" facing right$")
_AGE = {"man", "woman", "person", "boy", "girl", "child", "baby", "old man", "old woman", "older person"}
_PAIRS = (
    (re.compile(r"^(?:family)\b.*"), "family"),
    (re.compile(r"^kiss(?: (?:man|woman|person) (?:man|woman|person))?$"), "kiss"),
    (re.compile(r"^couple with heart\b.*"), "couple with heart"),
    (
        re.compile(r"^(?:men|women|people|woman and man) (holding hands|with bunny ears|wrestling)$"),
        r"people \1",
    ),
    (re.compile(r"^(?:Santa|Mrs\.|Mx) Claus$"), "Claus"),
    (re.compile(r"^(?:merman|mermaid|merperson)$"), "merperson"),
    (re.compile(r"^(?:prince|princess|person with crown)$"), "person with crown"),
    (re.compile(r"^(?:man|woman) dancing$"), "person dancing"),
    (re.compile(r"^(?:men|women)’s room$"), "room for men or women"),
    (re.compile(r"^(?:fe)?male sign$"), "gender sign"),
)
_PERSON = re.compile(r"^(?:deaf |pregnant )?(?:man|woman|person) ")
_CLOCK = re.compile(r"^\S+ o’clock$|^\S+-thirty$")
_TURNED = (
    (re.compile(r"\b(?:up|down|left|right)-(?:up|down|left|right)\b"), "sideways"),
    (re.compile(r"\b(?:leftwards|rightwards|left-facing|right-facing|upwards|downwards)\b"), "sideways"),
    (re.compile(r"\b(?:up|down|left|right)\b"), "sideways"),
)
_TURNS = re.compile(
    r"arrow|^backhand|^(?:left|right)-facing fist|^(?:left|right)wards|^thumbs|^palm (?:up|down) hand"
    r"|^magnifying glass|^red triangle pointed|^(?:up|down)wards button|^fast (?:up|down) button"
)

_COLOUR = re.compile(r"\b(?:light )?(?:red|orange|yellow|green|blue|purple|brown|black|grey|white|pink) ")
_SIZE = re.compile(r"\b(?:large|medium-small|medium|small) ")
_ARROW = re.compile(r"arrow(?: curving \S+)?$|arrows(?: button)?$")
_NOT_ARROW = re.compile(r"\bwith arrow$|^bow and arrow$")
_MOON = re.compile(r"\bmoon(?: face)?$")
_BUTTON = re.compile(r"\bbutton\b|^input |^circled ")
_HAND = re.compile(
    r"\bhands?\b|\bfist\b|\bfingers?\b|^index pointing|^backhand|^thumbs|thumb sign$|^vulcan salute$"
    r"|^love-you gesture$"
    r"|^sign of the horns$|^call me|^palms? "
)
_NOT_HAND = re.compile(r"\bholding hands$|^face |^smiling|^handbag|^person|^man |^woman ")
_STATES = (
    (re.compile(r"^(?:open|closed) mailbox\b.*"), "mailbox"),
    (re.compile(r"^globe showing\b.*"), "globe"),
    (re.compile(r"^(?:1st|2nd|3rd) place medal$"), "place medal"),
    (re.compile(r"^speaker \S+ volume$|^muted speaker$"), "speaker"),
    (re.compile(r"^sun behind\b.*cloud$"), "sun behind cloud"),
    (re.compile(r"^(?:closed )?(?:book|\S+ book)$"), "book"),
    (re.compile(r"^hourglass\b.*"), "hourglass"),
    (re.compile(r"^airplane (?:arrival|departure)$|^small airplane$"), "airplane"),
    (re.compile(r"^chart (?:increasing|decreasing)\b.*"), "chart"),
    (re.compile(r"^(?:un)?locked\b.*"), "lock"),
    (re.compile(r"^(?:low )?battery$"), "battery"),
)


def is_flag(text: str) -> bool:
    """Whether emoji characters are a flag (of a country, a region, or any other)."""
    first = ord(text[0])
    if 0x1F1E6 <= first <= 0x1F1FF:  # pairs of regional letters
        return True
    return first in (0x1F3F3, 0x1F3F4, 0x1F3C1, 0x1F6A9, 0x1F38C)


def concept(name: str, *, strict: bool) -> str:
    """The concept an emoji name belongs to.

    Args:
        name: English name, words parted by spaces.
        strict: also join colours, sizes, arrows, moons, buttons, hand gestures and states of one thing.
    """
    name = _people(_SKIN.sub("", name).strip())
    if _CLOCK.match(name):
        return "clock face"
    if name.startswith("keycap"):
        return "keycap"
    if _TURNS.search(name) and not _NOT_ARROW.search(name):
        for pattern, word in _TURNED:
            name = pattern.sub(word, name)
    return _strict(name) if strict else name


def _people(name: str) -> str:
    """One name for every gender, hair, age and number of a person or family."""
    name = _HAIR.sub("", _DIRECTION_END.sub("", name))
    if name in _AGE:
        return "person"
    for pattern, word in _PAIRS:
        if pattern.match(name):
            return pattern.sub(word, name)
    found = _PERSON.match(name)
    if found:
        kind = "deaf " if name.startswith("deaf") else "pregnant " if name.startswith("pregnant") else ""
        return kind + name[found.end() :]
    return re.sub(r"^(deaf|pregnant) (?:man|woman|person)$", r"\1", name)


def _strict(name: str) -> str:
    for pattern, word in _STATES:
        if pattern.match(name):
            return word
    if _ARROW.search(name) and not _NOT_ARROW.search(name):
        return "arrow"
    if _MOON.search(name):
        return "moon"
    if _BUTTON.search(name):
        return "button"
    if _HAND.search(name) and not _NOT_HAND.search(name):
        return "hand"
    return _SIZE.sub("", _COLOUR.sub("", name))
