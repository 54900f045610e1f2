"""A verb bound to one command line: the function behind it, the parser from its signature, and the call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from counterpoint.command.parser import CommandParser, UsageError
from counterpoint.command.signature import Option, options_of, summary_of
from counterpoint.command.verb import Verb

__all__ = ["BoundVerb", "Invocation", "parser_of"]

_INTERNAL = ("arguments", "overrides", "settings")
"""Parameters of the library's functions that the command line spells as single options."""


@dataclass(frozen=True)
class Invocation:
    """A call of the library, ready to be made."""

    function: Callable[..., Any]
    values: dict[str, Any]

    def run(self) -> Any:
        """Make the call."""
        return self.function(**self.values)


class BoundVerb:
    """A verb with its parser, and for `train` and `fit` with the system that is named.

    Args:
        name: of the verb.
        verb: its entry in the table.
        system: name of the system, or None.
    """

    def __init__(self, name: str, verb: Verb, system: str | None) -> None:
        self.verb, self.function, self.system = verb, verb.load(), None
        options = {option.name: option for option in options_of(self.function) if option.name not in _INTERNAL}
        if system is not None:
            from counterpoint.system import find_system

            self.system = find_system(system)
            _check_kind(name, self.system)
        command = f"counterpoint {name}" + (f" {self.system.name}" if self.system else "")
        text = summary_of(self.system.cls) if self.system else summary_of(self.function)
        self.parser = CommandParser(command, text)
        for place in verb.places:
            option = options.pop(place)
            if not (verb.system and place == verb.places[0]):
                self.parser.add_positional(option, many=place == verb.many)
            elif self.system is None:
                self.parser.add_positional(dataclasses.replace(option, name="system"))
        if verb.system and "out" in options:
            options["out"] = dataclasses.replace(
                options["out"], default=f"runs/{self.system.name}" if self.system else ""
            )
        self.parser.add_group(name, list(options.values()))
        self.arguments = self._add_system(list(options))
        self.overrides = self._add_training()

    def _add_system(self, taken: Sequence[str]) -> dict[str, str]:
        """Options of the constructor; returns option name -> argument name."""
        if self.system is None:
            return {}
        options = list(options_of(self.system.cls))
        names = _free_names((option.name for option in options), taken, "system")
        title = f"the system: {self.system.cls.__name__}"
        self.parser.add_group(title, _renamed(options, names), may_wait=True)
        return {new: old for old, new in names.items()}

    def _add_training(self) -> dict[str, str]:
        """Options of the training settings; returns option name -> setting."""
        if not self.verb.training:
            return {}
        from counterpoint.training.settings import TrainingSettings

        options = list(options_of(TrainingSettings))
        taken = [option.name for option in self.parser.options]
        names = _free_names((option.name for option in options), taken, "training")
        title = "training (a recipe's values come first, these flags win)"
        self.parser.add_group(title, _renamed(options, names))
        return {new: old for old, new in names.items()}

    def invocation(self, argv: Sequence[str]) -> Invocation:
        """The library call that a command line asks for.

        Raises:
            UsageError: see `CommandParser.parse`.
        """
        values = self.parser.parse(argv)
        if self.verb.many in values:
            words = values.pop(self.verb.many)
            if words:
                values[self.verb.many] = words[0] if len(words) == 1 else words
        if self.system is not None:
            values[self.verb.places[0]] = self.system.name
            values.setdefault("out", f"runs/{self.system.name}")
            values["arguments"] = _taken_out(values, self.arguments)
        if self.overrides:
            values["overrides"] = _taken_out(values, self.overrides)
        return Invocation(self.function, values)


def _check_kind(verb: str, system: Any) -> None:
    """`train` is for systems with a training loop, `fit` for the others."""
    if verb in ("train", "fit") and system.trains != (verb == "train"):
        other, kind = ("fit", "training-free") if verb == "train" else ("train", "trained, not fitted")
        raise UsageError(f"{system.name} is {kind}: use `counterpoint {other} {system.name} ...`")


def _free_names(names: Iterable[str], taken: Sequence[str], prefix: str) -> dict[str, str]:
    """name -> the same, or with a prefix where something else is called so."""
    return {name: f"{prefix}.{name}" if name in taken else name for name in names}


def _renamed(options: Sequence[Option], names: dict[str, str]) -> list[Option]:
    return [dataclasses.replace(option, name=names[option.name]) for option in options]


def _taken_out(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Move the values of some options out of `values` into a mapping of their own, with groups nested."""
    found: dict[str, Any] = {}
    for new, old in names.items():
        *groups, last = new.split(".")
        source: Any = values
        for group in groups:
            source = source.get(group, {}) if isinstance(source, dict) else {}
        if last not in source:
            continue
        target = found
        *inner, name = old.split(".")
        for group in inner:
            target = target.setdefault(group, {})
        target[name] = source.pop(last)
    for name in {new.split(".")[0] for new in names}:
        if values.get(name) in ({}, None):
            values.pop(name, None)
    return found


def parser_of(name: str, verb: Verb, argv: Sequence[str]) -> tuple[BoundVerb, list[str]]:
    """The parser that a command line needs, and the words it has to read.

    Raises:
        UsageError: `train` or `fit` without a system, or with one of the other kind.
        ValueError: no system is called so; names the nearest.
    """
    words = list(argv)
    if not verb.system or not words or words[0].startswith("-"):
        asks_help = any(word in ("-h", "--help") for word in words)
        if verb.system and not asks_help:
            raise UsageError(
                f"name the system first: counterpoint {name} SYSTEM [DATA ...] [options] (see `counterpoint systems`)"
            )
        return BoundVerb(name, verb, None), words
    return BoundVerb(name, verb, words[0]), words[1:]
