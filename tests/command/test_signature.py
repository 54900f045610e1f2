"""What a signature and its docstring become on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from counterpoint.command.signature import Option, documented, options_of, summary_of


@dataclass(frozen=True)
class Base:
    """Inherited.

    Attributes:
        flip: probability of
            mirroring.
    """

    flip: float = 0.5


@dataclass(frozen=True)
class Group(Base):
    """Settings.

    Attributes:
        low, high: a range.
        scales: pairs.
    """

    low: int = 1
    high: int = 2
    scales: tuple[tuple[float, float], ...] = ((0.1, 1.0),)


def verb(
    model: Any,
    data: str | Path | None = None,
    *,
    out: str | Path,
    kind: Literal["a", "b"] = "a",
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    group: Group = Group(high=9),  # noqa: B008
    quiet: bool = False,
    **rest: Any,
) -> None:
    """Do something.

    More of it.

    Args:
        model: the model,
            and more of it.
        out: where.
    """


OPTIONS = {option.name: option for option in options_of(verb)}


def test_groups_are_entered_with_the_defaults_of_their_instance() -> None:
    assert OPTIONS["group.high"] == Option("group.high", int, 9, "a range.")
    assert OPTIONS["group.low"].default == 1
    assert OPTIONS["group.flip"].text == "probability of mirroring."
    assert "group" not in OPTIONS
    assert "rest" not in OPTIONS


def test_types_in_words() -> None:
    kinds = {name: option.kind for name, option in OPTIONS.items()}
    assert kinds["model"] == "text"
    assert kinds["data"] == "text or none"
    assert kinds["kind"] == "a, b"
    assert kinds["columns"] == "name=value,... or none"
    assert kinds["names"] == "text,... or none"
    assert kinds["quiet"] == "true or false"
    assert kinds["group.scales"] == "[number,number],..."


def test_what_is_required_and_what_is_a_list() -> None:
    assert [name for name, option in OPTIONS.items() if option.required] == ["model", "out"]
    assert [name for name, option in OPTIONS.items() if option.takes_list] == ["names", "group.scales"]
    assert [name for name, option in OPTIONS.items() if option.takes_pairs] == ["columns"]
    assert [name for name, option in OPTIONS.items() if option.flag] == ["quiet"]


def test_texts_of_a_docstring() -> None:
    assert documented(verb) == {"model": "the model, and more of it.", "out": "where."}
    assert summary_of(verb) == "Do something.\n\nMore of it."
    assert documented(Group)["high"] == documented(Group)["low"] == "a range."
