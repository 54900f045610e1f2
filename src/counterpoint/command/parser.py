"""A jsonargparse parser from signatures: friendly spellings in, plain values out, one line for a mistake."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from counterpoint.command.signature import Option

__all__ = ["CommandParser", "UsageError", "shown"]

_TRUTH = ("true", "false")


class UsageError(ValueError):
    """A command line that cannot be understood."""


class _HelpFormatter(DefaultHelpFormatter):
    """Dashes in option names, and nothing between name and text but the text."""

    def _format_action_invocation(self, action: Any) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0]
        shown = f"--{_dashed(name[2:])}" if name.startswith("--") else name
        if getattr(action, "counterpoint_flag", False):
            return f"{shown}, --no-{_dashed(name[2:])}"
        if action.option_strings == ["-h", "--help"]:
            return "-h, --help"
        return f"{shown} {action.metavar}" if action.metavar else shown

    def _get_help_string(self, action: Any) -> str:
        return action.help or ""


def _dashed(name: str) -> str:
    return name.replace("_", "-")


class CommandParser:
    """Options in groups, and how they are read.

    Args:
        command: what stands before the options, e.g. "counterpoint train swav".
        text: what the command does.

    Attributes:
        positionals: arguments by place, with how many there may be: "" one, "?" none or one, "*" any number.
    """

    def __init__(self, command: str, text: str) -> None:
        self.command = command
        self._parser = ArgumentParser(
            prog=command,
            description=text,
            exit_on_error=False,
            formatter_class=_HelpFormatter,
            usage="%(prog)s",
        )
        self._options: dict[str, Option] = {}
        self._needed: list[str] = []
        self.positionals: list[tuple[Option, str]] = []

    def add_positional(self, option: Option, *, many: bool = False) -> None:
        """An argument that is given by its place; `many` takes any number of them."""
        count = "*" if many else "?" if not option.required else ""
        self.positionals.append((option, count))

    def add_group(self, title: str, options: Sequence[Option], *, may_wait: bool = False) -> None:
        """Options under a heading. A name that is taken already is left out.

        `may_wait`: those without a default need not be given here; a recipe may have them.
        """
        group = self._parser.add_argument_group(title)
        for option in options:
            if option.name in self._options:
                continue
            self._options[option.name] = option
            if option.required and not may_wait:
                self._needed.append(option.name)
            action = group.add_argument(
                f"--{option.name}", type=option.hint, help=_help_text(option), metavar=_metavar(option)
            )
            action.counterpoint_flag = option.flag

    @property
    def options(self) -> list[Option]:
        """All named options."""
        return list(self._options.values())

    def help(self) -> str:
        """The help text."""
        places = [_place(option, count) for option, count in self.positionals]
        self._parser.usage = " ".join([self.command, *places, "[options]"]).replace("%", "%%")
        text = self._parser.format_help()
        if not self.positionals:
            return text
        width = min(shutil.get_terminal_size().columns, 110) - 2
        lines = [
            textwrap.fill(f"  {_place(option, count):<22}{option.text}", width, subsequent_indent=" " * 24)
            for option, count in self.positionals
        ]
        return text.replace("\noptions:", "\narguments:\n" + "\n".join(lines) + "\n\noptions:", 1)

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values that were given, by name; groups are nested mappings. Defaults are not filled in.

        Raises:
            UsageError: an unknown or missing option, or a value of the wrong kind.
        """
        places, named = self._split(argv)
        values = self._placed(places)
        given = {option.name for option, _ in named}
        for name in self._needed:
            option = self._options[name]
            if name not in given:
                raise self._error(f"--{_dashed(name)} is missing ({option.text.rstrip('.') or option.kind})")
        words = []
        for option, text in named:
            word = _spelled(option, text)
            if word is None or not self._reads(f"--{option.name}={word}"):
                raise self._error(f"--{_dashed(option.name)} takes {option.kind}, got {text!r}")
            words.append(f"--{option.name}={word}")
        return {**self._read(words), **values}

    def _reads(self, word: str) -> bool:
        """Whether jsonargparse can read one option by itself."""
        try:
            self._read([word])
        except Exception:  # jsonargparse has several kinds of error for a value it cannot read
            return False
        return True

    def _read(self, words: Sequence[str]) -> dict[str, Any]:
        return self._parser.parse_args(list(words), defaults=False).as_dict()

    def _placed(self, words: list[str]) -> dict[str, Any]:
        """Values of the arguments that are given by their place."""
        values: dict[str, Any] = {}
        for option, count in self.positionals:
            if count == "*":
                values[option.name], words = words, []
            elif words:
                values[option.name], words = words[0], words[1:]
            elif option.required:
                raise self._error(f"{option.name.upper()} is missing ({option.text.rstrip('.') or option.kind})")
        if words:
            raise self._error(f"{words[0]!r} is one argument too many")
        return values

    def _split(self, argv: Sequence[str]) -> tuple[list[str], list[tuple[Option, str]]]:
        """Words by place, and the options with their texts."""
        places: list[str] = []
        named: list[tuple[Option, str]] = []
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                return places + words, named
            if not word.startswith("--"):
                if re.match(r"-[A-Za-z]", word):
                    raise self._error(f"there is no option {word}: option names start with two dashes")
                places.append(word)
                continue
            name, equals, text = word[2:].partition("=")
            option, negated = self._find(name)
            if option.flag and not equals:
                text = words.pop(0) if words and words[0].lower() in _TRUTH and not negated else "true"
                text = "false" if negated else text.lower()
            elif not equals:
                if not words or (words[0].startswith("--") and len(words[0]) > 2):
                    raise self._error(f"--{_dashed(name)} needs a value: {option.kind}")
                text = words.pop(0)
            named.append((option, text))
        return places, named

    def _find(self, name: str) -> tuple[Option, bool]:
        """The option that is meant, and whether it is negated."""
        plain = name.replace("-", "_")
        if plain in self._options:
            return self._options[plain], False
        opposite = plain.removeprefix("no_")
        if plain.startswith("no_") and opposite in self._options and self._options[opposite].flag:
            return self._options[opposite], True
        near = get_close_matches(plain, self._options, n=3, cutoff=0.55)
        near += [other for other in self._options if other.rsplit(".", 1)[-1] == plain and other not in near]
        meant = " or ".join(f"--{_dashed(other)}" for other in near)
        raise self._error(f"there is no option --{name}" + (f"; did you mean {meant}?" if near else ""))

    def _error(self, text: str) -> UsageError:
        return UsageError(f"{text} (see `{self.command} --help`)")


def _spelled(option: Option, text: str) -> str | None:
    """`a=b,c=d` and `1,2,3` as JSON where the option takes pairs or lists; None when it cannot be read so."""
    start = text.lstrip()[:1]
    if text.lower() == "none" and option.optional:
        return "null"
    if option.takes_pairs and start != "{":
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        if any(not equals for _, equals, _ in pairs):
            return None
        return json.dumps({name.strip(): value.strip() for name, _, value in pairs})
    if option.takes_list and start not in ("[", "{"):
        parts = [part.strip() for part in text.split(",")]
        return json.dumps(parts) if option.list_of_text else f"[{','.join(parts)}]"
    return text


def _metavar(option: Option) -> str:
    return "" if option.flag else f"<{option.kind.removesuffix(' or none').replace(', ', '|')}>"


def _place(option: Option, count: str) -> str:
    name = option.name.upper()
    return {"*": f"[{name} ...]", "?": f"[{name}]", "": name}[count]


def _help_text(option: Option) -> str:
    text = option.text.replace("%", "%%")
    default = "" if option.default in (None, "") or option.required else shown(option.default)
    ending = "required" if option.required else f"default {default}" if default else ""
    return f"{text} [{ending}]".strip() if ending else text


def shown(value: Any, inner: bool = False) -> str:
    """A default the way it would be typed."""
    if isinstance(value, tuple | list):
        nested = inner or any(isinstance(item, tuple | list) for item in value)
        text = ",".join(shown(item, inner=True) for item in value) or "none"
        return f"[{text}]" if nested else text
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (f"{value:.6g}" if isinstance(value, float) else str(value)).replace("%", "%%")
