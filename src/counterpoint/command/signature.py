"""What a signature and its docstring say: options of the command line before any parser exists."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import docstring_parser

__all__ = ["Option", "documented", "options_of", "summary_of"]

REQUIRED = inspect.Parameter.empty
_SEQUENCES = (list, tuple, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)


@dataclass(frozen=True)
class Option:
    """One option of the command line.

    Attributes:
        name: with dots where a group of settings is entered, e.g. "crops.sizes".
        hint: its type; text where the signature takes anything.
        default: its default, or `REQUIRED`.
        text: its line of the docstring.
    """

    name: str
    hint: Any
    default: Any
    text: str

    @property
    def required(self) -> bool:
        """True without a default."""
        return self.default is REQUIRED

    @property
    def flag(self) -> bool:
        """True for yes/no options."""
        return self.hint is bool

    @property
    def takes_list(self) -> bool:
        """True when the value may be a list, and plain text may not."""
        kinds = _alternatives(self.hint)
        return str not in kinds and any((typing.get_origin(kind) or kind) in _SEQUENCES for kind in kinds)

    @property
    def list_of_text(self) -> bool:
        """True when the items of a list are text."""
        kinds = [kind for kind in _alternatives(self.hint) if (typing.get_origin(kind) or kind) in _SEQUENCES]
        return any(typing.get_args(kind)[:1] in ((), (str,), (Any,)) for kind in kinds)

    @property
    def optional(self) -> bool:
        """True when the value may be none."""
        return type(None) in _alternatives(self.hint)

    @property
    def takes_pairs(self) -> bool:
        """True when the value is a mapping and nothing else."""
        kinds = [kind for kind in _alternatives(self.hint) if kind is not type(None)]
        return bool(kinds) and all((typing.get_origin(kind) or kind) in _MAPPINGS for kind in kinds)

    @property
    def kind(self) -> str:
        """The type in words, for help texts and errors."""
        words = [_word(kind) for kind in _alternatives(self.hint)]
        return " or ".join(dict.fromkeys(words))


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return list(typing.get_args(hint))
    return [hint]


def _word(hint: Any) -> str:
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "none"}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(str(value) for value in arguments)
    if origin in _MAPPINGS:
        return "name=value,..."
    if origin in _SEQUENCES:
        inner = [_word(argument) for argument in arguments if argument is not Ellipsis]
        inner = [f"[{word}]" if "," in word else word for word in inner]
        fixed = origin is tuple and Ellipsis not in arguments
        return ",".join(inner) if fixed else f"{inner[0] if inner else 'value'},..."
    return "path" if getattr(hint, "__name__", "") == "Path" else "text"


def options_of(target: Callable[..., Any], prefix: str = "") -> Iterator[Option]:
    """The options that a function or class takes; groups of settings (dataclasses) are entered."""
    texts, hints = documented(target), _hints(target)
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        hint, default = hints.get(name, Any), parameter.default
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            chosen = None if default is REQUIRED else default
            for option in options_of(hint, f"{prefix}{name}."):
                inner = option.name.rsplit(".", 1)[-1]
                yield dataclasses.replace(option, default=getattr(chosen, inner, option.default))
        else:
            yield Option(prefix + name, _plain_hint(hint), default, texts.get(name, ""))


def _plain_hint(hint: Any) -> Any:
    """What can be said in words: anything but text, numbers and collections of them is given as text."""
    kinds = []
    for kind in _alternatives(hint):
        origin = typing.get_origin(kind)
        known = kind in (str, int, float, bool, type(None)) or origin in (
            typing.Literal,
            *_SEQUENCES,
            *_MAPPINGS,
        )
        kinds.append(kind if known else str)
    kinds = list(dict.fromkeys(kinds))
    return kinds[0] if len(kinds) == 1 else typing.Union[tuple(kinds)]  # noqa: UP007


def _hints(target: Any) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) and not dataclasses.is_dataclass(target) else target
    try:
        return typing.get_type_hints(function)
    except NameError:  # a hint that only type checkers can see
        return {}


def documented(target: Any) -> dict[str, str]:
    """Argument name -> its text, from the docstring and, for classes, those of its bases."""
    found: dict[str, str] = {}
    for owner in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        for entry in docstring_parser.parse(inspect.cleandoc(owner.__doc__ or "")).params:
            for name in entry.arg_name.split(","):
                found[name.strip()] = " ".join((entry.description or "").split())
    return found


def summary_of(target: Any) -> str:
    """Everything a docstring says before its sections."""
    parsed = docstring_parser.parse(inspect.cleandoc(target.__doc__ or ""))
    parts = [parsed.short_description, parsed.long_description]
    return "\n\n".join(part for part in parts if part)
