"""What people type, and what the library gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from counterpoint.command.parser import CommandParser, UsageError, shown
from counterpoint.command.signature import options_of


def verb(
    data: Any,
    query: str | None = None,
    *,
    micro_batch: int | None = None,
    rate: float = 1e-3,
    sizes: tuple[int, ...] = (224, 96),
    betas: tuple[float, float] = (0.9, 0.999),
    templates: Sequence[str] = ("a {}",),
    columns: Mapping[str, str] | None = None,
    kind: Literal["word", "bpe"] = "bpe",
    resume: bool = False,
    deterministic: bool = True,
    name: str = "x",
) -> None:
    """Something."""


@pytest.fixture
def parser() -> CommandParser:
    made = CommandParser("counterpoint try", "Try.")
    options = list(options_of(verb))
    for option in options[:2]:
        made.add_positional(option)
    made.add_group("options of try", options[2:])
    return made


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--micro-batch", "32"], "micro_batch", 32),
        (["--micro_batch=32"], "micro_batch", 32),
        (["--micro-batch", "none"], "micro_batch", None),
        (["--rate", "1e-4"], "rate", 1e-4),
        (["--rate", "-2"], "rate", -2.0),
        (["--rate", "3"], "rate", 3.0),
        (["--sizes", "32,16"], "sizes", (32, 16)),
        (["--sizes", "[32, 16]"], "sizes", (32, 16)),
        (["--sizes", "32"], "sizes", (32,)),
        (["--betas", "0.5,0.9"], "betas", (0.5, 0.9)),
        (["--templates", "a photo of {}.,a {}: here"], "templates", ["a photo of {}.", "a {}: here"]),
        (["--columns", "image=photo,text=caption"], "columns", {"image": "photo", "text": "caption"}),
        (["--kind", "word"], "kind", "word"),
        (["--resume"], "resume", True),
        (["--resume", "true"], "resume", True),
        (["--no-deterministic"], "deterministic", False),
        (["--deterministic=false"], "deterministic", False),
        (["--name", "null"], "name", "null"),
        (["--name", "a: b"], "name", "a: b"),
        (["--name", "12"], "name", "12"),
        (["--name", "[1"], "name", "[1"),
        (["--name="], "name", ""),
    ],
)
def test_spellings(parser: CommandParser, words: list[str], name: str, value: Any) -> None:
    assert parser.parse(["data/", *words]) == {"data": "data/", name: value}


def test_only_what_is_given_comes_back(parser: CommandParser) -> None:
    assert parser.parse(["data/"]) == {"data": "data/"}


def test_places_are_text_whatever_they_look_like(parser: CommandParser) -> None:
    assert parser.parse(["12", "a: {b"]) == {"data": "12", "query": "a: {b"}
    assert parser.parse(["--", "-x", "--rate"]) == {"data": "-x", "query": "--rate"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "DATA is missing"),
        (["a", "b", "c"], "'c' is one argument too many"),
        (["a", "--micro-bach", "3"], "there is no option --micro-bach; did you mean --micro-batch?"),
        (["a", "--micro-batch", "many"], "--micro-batch takes whole number or none, got 'many'"),
        (["a", "--micro-batch", "1.5"], "--micro-batch takes whole number or none, got '1.5'"),
        (["a", "--micro-batch"], "--micro-batch needs a value"),
        (["a", "--micro-batch", "--resume"], "--micro-batch needs a value"),
        (["a", "--betas", "0.9"], "--betas takes number,number, got '0.9'"),
        (["a", "--sizes", "big"], "--sizes takes whole number,..., got 'big'"),
        (["a", "--kind", "phrase"], "--kind takes word, bpe, got 'phrase'"),
        (["a", "--columns", "image"], "--columns takes name=value,... or none, got 'image'"),
        (["a", "--resume=perhaps"], "--resume takes true or false, got 'perhaps'"),
        (["a", "-r", "3"], "there is no option -r: option names start with two dashes"),
        (["a", "--zzzz"], "there is no option --zzzz (see"),
    ],
)
def test_mistakes_are_named(parser: CommandParser, words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as found:
        parser.parse(words)
    assert message in str(found.value)
    assert "counterpoint try --help" in str(found.value)
    assert "\n" not in str(found.value)


def test_what_a_recipe_may_have_need_not_be_given() -> None:
    def system(classes: Sequence[str]) -> None:
        """A system with an argument that has no default."""

    for may_wait in (False, True):
        made = CommandParser("counterpoint try", "Try.")
        made.add_group("the system", list(options_of(system)), may_wait=may_wait)
        assert made.parse(["--classes", "a,b"]) == {"classes": ["a", "b"]}
        if may_wait:
            assert made.parse([]) == {}
        else:
            with pytest.raises(UsageError, match="--classes is missing"):
                made.parse([])


def test_help_names_everything(parser: CommandParser) -> None:
    text = parser.help()
    assert text.startswith("usage: counterpoint try DATA [QUERY] [options]\n\nTry.")
    for part in ("--micro-batch <whole number>", "--resume, --no-resume", "[default 224,96]", "--kind <word|bpe>"):
        assert part in text, part
    assert "micro_batch" not in text


def test_defaults_are_shown_as_they_are_typed() -> None:
    assert shown((0.9, 0.999)) == "0.9,0.999"
    assert shown(((0.1, 1.0), (0.2, 0.5))) == "[[0.1,1],[0.2,0.5]]"
    assert shown(True) == "yes"
    assert shown(()) == "none"
    assert shown(1 / 3) == "0.333333"
